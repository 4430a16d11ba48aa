//! Netlink messages about a table: what is asked, what is changed, what is answered. No I/O.

use super::chains::{Chain, Hook, Rule};
use super::expressions::GOTO;
use super::rows::{Key, Value};
use super::sets::{CLIENTS, Data, Field, Set, length};
use super::{Family, TABLE};
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable as _, NLA_F_NESTED, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE,
    NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NlasIterator,
};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, DataAttribute, Expressions, GenMessage, Hook as HookAttribute,
    HookNumber, InetHookNumber, ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage,
    SetAttribute, SetDescription, SetElementAttribute, SetElementList, SetElementMessage, SetFlags,
    SetMessage, TableAttribute, TableFlags, TableMessage, Verdict, VerdictAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// The subsystem that a transaction is for, as its header says it.
const NFTABLES: u16 = 10;
/// Elements in a message: a list of them has less than 64 KiB.
const ELEMENTS: usize = 400;
/// nft's numbers of types, so that it can show what is in the sets.
const ADDRESS_V4: u32 = 7;
const ADDRESS_V6: u32 = 8;
const PROTOCOL: u32 = 12;
const PORT: u32 = 13;
const NUMBER: u32 = 19;
/// The type of verdicts.
pub(super) const VERDICT: u32 = 0xffff_ff00;

/// A message as it is received.
pub(super) type Message = NetlinkMessage<NetfilterMessage>;

/// Changes that happen together or not at all.
#[derive(Debug)]
pub(super) struct Transaction {
    /// The table that is changed.
    table: &'static str,
    bytes: Vec<u8>,
    /// The number of the last message.
    last: u32,
    /// Where that message begins.
    last_at: usize,
    /// What each message is about.
    parts: Vec<Part>,
}

/// What a message changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Frame,
    Table,
    Set(&'static str),
    Elements(&'static str),
    Chain(String),
    /// A rule of a chain, by its place.
    Rule(String, usize),
}

impl Transaction {
    pub(super) fn new() -> Self {
        Self::about(TABLE)
    }

    /// Changes of a table with another name.
    pub(super) fn about(table: &'static str) -> Self {
        let mut transaction =
            Self { table, bytes: Vec::new(), last: 0, last_at: 0, parts: Vec::new() };
        transaction.control(ControlMessage::BatchBegin);
        transaction
    }

    /// Whether nothing is to be done.
    pub(super) const fn is_empty(&self) -> bool {
        self.last == 1
    }

    /// What the message with this number is about.
    pub(super) fn part(parts: &[Part], number: u32) -> String {
        let at = usize::try_from(number).unwrap_or_default().wrapping_sub(1);
        match parts.get(at) {
            None | Some(Part::Frame) => "the whole".to_owned(),
            Some(Part::Table) => "the table".to_owned(),
            Some(Part::Set(name)) => format!("set {name}"),
            Some(Part::Elements(name)) => format!("elements of {name}"),
            Some(Part::Chain(name)) => format!("chain {name}"),
            Some(Part::Rule(name, at)) => format!("chain {name}, rule {}", at + 1),
        }
    }

    /// What is to be sent, the number of the message whose answer comes last, and what each is about.
    pub(super) fn finish(mut self) -> (Vec<u8>, u32, Vec<Part>) {
        let (last, at) = (self.last, self.last_at);
        // Flags follow length and type.
        if let Some([low, high]) = self.bytes.get_mut(at + 6..at + 8) {
            let flags = u16::from_ne_bytes([*low, *high]) | NLM_F_ACK;
            [*low, *high] = flags.to_ne_bytes();
        }
        self.control(ControlMessage::BatchEnd);
        (self.bytes, last, self.parts)
    }

    fn control(&mut self, message: ControlMessage) {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFTABLES);
        self.push(NetfilterMessage::new(header, message), 0, Part::Frame);
    }

    fn put(&mut self, family: Family, message: NfTablesMessage, flags: u16, part: Part) {
        self.push(NetfilterMessage::new(header(family), message), flags, part);
    }

    fn push(&mut self, message: NetfilterMessage, flags: u16, part: Part) {
        self.parts.push(part);
        self.last += 1;
        self.last_at = self.bytes.len();
        append(&mut self.bytes, message, flags | NLM_F_REQUEST, self.last);
    }

    pub(super) fn add_table(&mut self, family: Family) {
        let attributes = vec![TableAttribute::Name(self.table.into())];
        let message = NfTablesMessage::NewTable(TableMessage { attributes });
        self.put(family, message, NLM_F_CREATE, Part::Table);
    }

    /// Adds a table that must not be there, and is the socket's own.
    pub(super) fn own_table(&mut self, family: Family) {
        let name = TableAttribute::Name(self.table.into());
        let attributes = vec![name, TableAttribute::Flags(TableFlags::Owner)];
        let message = NfTablesMessage::NewTable(TableMessage { attributes });
        self.put(family, message, NLM_F_CREATE | NLM_F_EXCL, Part::Table);
    }

    pub(super) fn delete_table(&mut self, family: Family) {
        let attributes = vec![TableAttribute::Name(self.table.into())];
        let message = NfTablesMessage::DeleteTable(TableMessage { attributes });
        self.put(family, message, 0, Part::Table);
    }

    pub(super) fn add_set(&mut self, family: Family, set: Set, id: u32) {
        let (data_length, kind) = match set.data() {
            Data::None => (None, None),
            Data::Fields(fields) => (Some(length(fields, family)), Some(joined(family, fields))),
            Data::Verdict => (None, Some(VERDICT)),
        };
        let mut description = Vec::new();
        let fields = set.fields();
        if fields.len() > 1 {
            let field = |field: &Field| {
                let length = field.length(family);
                let length = DefaultNla::new(1, length.to_be_bytes().to_vec());
                let mut bytes = vec![0; length.buffer_len()];
                length.emit(&mut bytes);
                DefaultNla::new(1 | NLA_F_NESTED, bytes)
            };
            description.push(SetDescription::Concat(fields.iter().map(field).collect()));
        }
        if set.is_dynamic() {
            description.push(SetDescription::Size(CLIENTS));
        }
        let mut attributes = vec![
            SetAttribute::Table(self.table.into()),
            SetAttribute::Name(set.name().into()),
            SetAttribute::Flags(flags(set)),
            SetAttribute::KeyType(joined(family, set.fields())),
            SetAttribute::KeyLen(set.key_len(family)),
            SetAttribute::Id(id),
        ];
        attributes.extend(kind.map(SetAttribute::DataType));
        attributes.extend(data_length.map(SetAttribute::DataLen));
        if !description.is_empty() {
            attributes.push(SetAttribute::Description(description));
        }
        let message = NfTablesMessage::NewSet(SetMessage { attributes });
        self.put(family, message, NLM_F_CREATE, Part::Set(set.name()));
    }

    pub(super) fn add_chain(&mut self, family: Family, name: &str, hook: Option<Hook>) {
        let mut attributes =
            vec![ChainAttribute::Table(self.table.into()), ChainAttribute::Name(name.into())];
        if let Some(Hook { kind, number, priority }) = hook {
            let number = HookNumber::Inet(InetHookNumber::from(number));
            let hook = vec![
                HookAttribute::Number(number),
                HookAttribute::Priority(priority.cast_unsigned()),
            ];
            attributes.push(ChainAttribute::Hook(hook));
            attributes.push(ChainAttribute::Policy(1));
            attributes.push(ChainAttribute::Type(kind.into()));
        }
        let message = NfTablesMessage::NewChain(ChainMessage { attributes });
        self.put(family, message, NLM_F_CREATE, Part::Chain(name.to_owned()));
    }

    /// Deletes a chain, whose rules must be gone.
    pub(super) fn delete_chain(&mut self, family: Family, name: &str) {
        let attributes =
            vec![ChainAttribute::Table(self.table.into()), ChainAttribute::Name(name.into())];
        let message = NfTablesMessage::DeleteChain(ChainMessage { attributes });
        self.put(family, message, 0, Part::Chain(name.to_owned()));
    }

    /// Deletes all rules of a chain.
    pub(super) fn delete_rules(&mut self, family: Family, chain: &str) {
        let attributes =
            vec![RuleAttribute::Table(self.table.into()), RuleAttribute::Chain(chain.into())];
        let message = NfTablesMessage::DeleteRule(RuleMessage { attributes });
        self.put(family, message, 0, Part::Chain(chain.to_owned()));
    }

    /// Adds the rules of a chain.
    pub(super) fn add_rules(&mut self, family: Family, name: &str, chain: &Chain) {
        for (at, rule) in chain.rules.iter().enumerate() {
            let expressions = rule.iter().map(|expression| {
                ListAttribute::from(Expressions::Other {
                    expression_type: expression.name.to_owned(),
                    attributes: expression.attributes.clone(),
                })
            });
            let attributes = vec![
                RuleAttribute::Table(self.table.into()),
                RuleAttribute::Chain(name.into()),
                RuleAttribute::Expressions(expressions.collect()),
                RuleAttribute::UserData(comment(rule)),
            ];
            let message = NfTablesMessage::NewRule(RuleMessage { attributes });
            let part = Part::Rule(name.to_owned(), at);
            self.put(family, message, NLM_F_CREATE | NLM_F_APPEND, part);
        }
    }

    /// Adds elements, which must not be there.
    pub(super) fn add_elements<'e>(
        &mut self,
        family: Family,
        elements: impl Iterator<Item = (&'e Key, &'e Value)>,
    ) {
        self.elements(family, elements.map(|(key, value)| (key, Some(value))).collect());
    }

    /// Deletes elements, which must be there.
    pub(super) fn delete_elements(&mut self, family: Family, elements: &[(Key, Value)]) {
        self.elements(family, elements.iter().map(|(key, _)| (key, None)).collect());
    }

    /// Adds elements with their values, or deletes them where there is none.
    fn elements(&mut self, family: Family, mut elements: Vec<(&Key, Option<&Value>)>) {
        let add = elements.iter().any(|(_, value)| value.is_some());
        elements.sort_by_key(|(key, _)| key.set);
        for same in elements.chunk_by(|(one, _), (other, _)| one.set == other.set) {
            for some in same.chunks(ELEMENTS) {
                let list = some.iter().map(|(key, value)| element(key, *value));
                let attributes = vec![
                    SetElementList::Table(self.table.into()),
                    SetElementList::Set(some[0].0.set.name().into()),
                    SetElementList::Elements(list.collect()),
                ];
                let message = SetElementMessage { attributes };
                let part = Part::Elements(some[0].0.set.name());
                if add {
                    let message = NfTablesMessage::NewSetElement(message);
                    self.put(family, message, NLM_F_CREATE, part);
                } else {
                    self.put(family, NfTablesMessage::DeleteSetElement(message), 0, part);
                }
            }
        }
    }
}

fn element(key: &Key, value: Option<&Value>) -> ListAttribute<SetElementAttribute> {
    let mut attributes = vec![SetElementAttribute::Key(DataAttribute::Value(key.bytes.to_vec()))];
    if let Some(end) = &key.end {
        attributes.push(SetElementAttribute::KeyEnd(vec![DefaultNla::new(1, end.to_vec())]));
    }
    let data = value.and_then(|value| match value {
        Value::Nothing => None,
        Value::Bytes(bytes) => Some(DataAttribute::Value(bytes.to_vec())),
        Value::Chain(chain) => Some(DataAttribute::Verdict(vec![
            VerdictAttribute::Code(Verdict::Goto),
            VerdictAttribute::Chain(chain.clone()),
        ])),
    });
    attributes.extend(data.map(SetElementAttribute::Data));
    ListAttribute::Element(attributes)
}

/// The flags of a set.
pub(super) fn flags(set: Set) -> SetFlags {
    let mut flags = SetFlags::empty();
    flags.set(SetFlags::Map, set.data() != Data::None);
    flags.set(SetFlags::Interval, set.has_ranges());
    flags.set(SetFlags::Concat, set.fields().len() > 1);
    flags.set(SetFlags::Timeout | SetFlags::Eval, set.is_dynamic());
    flags
}

fn joined(family: Family, fields: &[Field]) -> u32 {
    fields.iter().fold(0, |joined, field| (joined << 6) | type_of(family, *field))
}

const fn type_of(family: Family, field: Field) -> u32 {
    match field {
        Field::Address if family.is_v4() => ADDRESS_V4,
        Field::Address => ADDRESS_V6,
        Field::Protocol => PROTOCOL,
        Field::Port => PORT,
        Field::Number => NUMBER,
    }
}

/// What a rule is known by: a comment with a fingerprint.
pub(super) fn comment(rule: &Rule) -> Vec<u8> {
    let mut hasher = DefaultHasher::new();
    for expression in rule {
        expression.name.hash(&mut hasher);
        let mut bytes = vec![0; expression.attributes.as_slice().buffer_len()];
        expression.attributes.as_slice().emit(&mut bytes);
        bytes.hash(&mut hasher);
    }
    let text = format!("lb {:016x}\0", hasher.finish());
    let mut comment = vec![0, u8::try_from(text.len()).unwrap_or_default()];
    comment.extend(text.as_bytes());
    comment
}

/// Asks for the tables of a family.
pub(super) fn list_tables(family: Family) -> Vec<u8> {
    dump(family, NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() }))
}

/// Asks for the chains of a family.
pub(super) fn list_chains(family: Family) -> Vec<u8> {
    dump(family, NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() }))
}

/// Asks for the rules of the table.
pub(super) fn list_rules(family: Family) -> Vec<u8> {
    let attributes = vec![RuleAttribute::Table(TABLE.into())];
    dump(family, NfTablesMessage::GetRule(RuleMessage { attributes }))
}

/// Asks for the sets of the table.
pub(super) fn list_sets(family: Family) -> Vec<u8> {
    let attributes = vec![SetAttribute::Table(TABLE.into())];
    dump(family, NfTablesMessage::GetSet(SetMessage { attributes }))
}

/// Asks for the elements of a set.
pub(super) fn list_elements(family: Family, set: Set) -> Vec<u8> {
    let attributes =
        vec![SetElementList::Table(TABLE.into()), SetElementList::Set(set.name().into())];
    dump(family, NfTablesMessage::GetSetElement(SetElementMessage { attributes }))
}

/// Asks for the number of the ruleset's generation.
pub(super) fn ask_generation() -> Vec<u8> {
    let message = NfTablesMessage::GetGen(GenMessage { attributes: Vec::new() });
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    let mut bytes = Vec::new();
    append(&mut bytes, NetfilterMessage::new(header, message), NLM_F_REQUEST, 1);
    bytes
}

fn dump(family: Family, message: NfTablesMessage) -> Vec<u8> {
    let mut bytes = Vec::new();
    let message = NetfilterMessage::new(header(family), message);
    append(&mut bytes, message, NLM_F_REQUEST | NLM_F_DUMP, 1);
    bytes
}

pub(super) fn header(family: Family) -> NetfilterHeader {
    let family = match family {
        Family::V4 => NetfilterProtoFamily::IPv4,
        Family::V6 => NetfilterProtoFamily::IPv6,
    };
    NetfilterHeader::new(family, 0, 0)
}

pub(super) fn append(bytes: &mut Vec<u8>, message: NetfilterMessage, flags: u16, number: u32) {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = number;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let at = bytes.len();
    // Each begins at a multiple of 4.
    bytes.resize(at + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut bytes[at..]);
}

/// The message about nftables in an answer.
pub(super) fn nftables(message: Message) -> Option<NfTablesMessage> {
    match message.payload {
        NetlinkPayload::InnerMessage(NetfilterMessage {
            inner: NetfilterMessageInner::NfTables(message),
            ..
        }) => Some(message),
        _ => None,
    }
}

/// The chain of a rule and what it is known by.
pub(super) fn rule(payload: &[u8]) -> Result<Option<(String, Vec<u8>)>, DecodeError> {
    let attributes = payload.get(4..).unwrap_or_default();
    let chain = parts(attributes, 2).next().transpose()?;
    let comment = parts(attributes, 7).next().transpose()?.unwrap_or_default();
    Ok(chain.map(|chain| (text_of(chain), comment.to_vec())))
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}

/// The elements of a set in what a message has. One that stands for all others has no key.
pub(super) fn elements(set: Set, payload: &[u8]) -> Result<Vec<(Option<Key>, Value)>, DecodeError> {
    let mut elements = Vec::new();
    // A header of 4 bytes comes first.
    for list in parts(payload.get(4..).unwrap_or_default(), 3) {
        for element in parts(list?, 1) {
            elements.push(row(set, element?)?);
        }
    }
    Ok(elements)
}

fn row(set: Set, element: &[u8]) -> Result<(Option<Key>, Value), DecodeError> {
    let (mut key, mut end, mut value) = (None, None, Value::Nothing);
    for attribute in NlasIterator::new(element) {
        let attribute = attribute?;
        match attribute.kind() {
            1 => key = bytes_of(attribute.value())?,
            2 => value = value_of(attribute.value())?,
            10 => end = bytes_of(attribute.value())?,
            _ => {}
        }
    }
    Ok((key.map(|bytes| Key { set, bytes, end }), value))
}

/// What attributes of this kind hold.
pub(super) fn parts(
    attributes: &[u8],
    kind: u16,
) -> impl Iterator<Item = Result<&[u8], DecodeError>> {
    NlasIterator::new(attributes).filter_map(move |attribute| match attribute {
        Ok(attribute) if attribute.kind() == kind => {
            // Behind length and kind.
            let end = usize::from(attribute.length());
            Some(Ok(attribute.into_inner().get(4..end).unwrap_or_default()))
        }
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    })
}

/// The bytes of data.
fn bytes_of(data: &[u8]) -> Result<Option<Box<[u8]>>, DecodeError> {
    Ok(parts(data, 1).next().transpose()?.map(Box::from))
}

fn value_of(data: &[u8]) -> Result<Value, DecodeError> {
    if let Some(bytes) = bytes_of(data)? {
        return Ok(Value::Bytes(bytes));
    }
    let verdict = parts(data, 2).next().transpose()?.unwrap_or_default();
    let code = parts(verdict, 1).next().transpose()?;
    let chain = parts(verdict, 2).next().transpose()?.unwrap_or_default();
    let chain = text_of(chain);
    // Another verdict is none of ours: it equals nothing that we would write.
    let goto = code == Some(&GOTO.to_be_bytes()[..]);
    Ok(Value::Chain(if goto { chain } else { String::new() }))
}
