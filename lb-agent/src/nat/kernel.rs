//! The tables as the kernel has them: read whole, changed in transactions.
//!
//! In the network namespace that the thread is in which opens it. Blocks, for as long as the kernel
//! takes.

use super::chains::{Chains, Surroundings, chains};
use super::contents::{Change, Contents};
use super::found::Found;
use super::late;
use super::messages::{self, Message, Transaction};
use super::rows::{Draw, Key, Value};
use super::sets::Set;
use super::{Family, TABLE};
use crate::model::Reach;
use netlink_packet_core::{DecodeError, NetlinkBuffer, NetlinkPayload};
use netlink_packet_netfilter::nftables::{GenAttribute, NfTablesMessage, TableAttribute};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::BTreeSet;
use std::io;

/// The longest answer that the kernel puts into one read.
const ANSWER: usize = 1 << 17;

/// Types of messages that end an answer.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Why the kernel did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NatError {
    /// The socket fails.
    #[error("{step}: {source}; is nf_tables in this kernel, and CAP_NET_ADMIN granted?")]
    Socket {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refuses.
    #[error("{step}: the kernel refused {part}: {source}")]
    Refused {
        /// What was being done.
        step: &'static str,
        /// What of it.
        part: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// An answer can't be read.
    #[error("{step}: an answer that can't be read: {reason}")]
    Garbled {
        /// What was being done.
        step: &'static str,
        /// Why.
        reason: String,
    },
}

/// A way to the kernel's tables. After a failure it may be out of step: open another.
#[derive(Debug)]
pub struct Nat {
    socket: Socket,
}

// === impl Nat ===

impl Nat {
    /// Opens it, in the network namespace of this thread.
    ///
    /// # Errors
    ///
    /// If the kernel has no nfnetlink, or the process may not open such a socket.
    pub fn open() -> Result<Self, NatError> {
        let failed = |source| NatError::Socket { step: "opening a netlink socket", source };
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed)?;
        socket.bind_auto().map_err(failed)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        Ok(Self { socket })
    }

    /// The number of the ruleset's generation: it grows with every change, whosever it is.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to answer, as without CAP_NET_ADMIN or nf_tables, or its answer has no number.
    pub fn generation(&self) -> Result<u32, NatError> {
        let step = "asking for the generation of the ruleset";
        let mut generation = None;
        self.ask(step, &messages::ask_generation(), |message| {
            if let NfTablesMessage::NewGen(message) = message {
                generation = message.attributes.iter().find_map(|attribute| match attribute {
                    GenAttribute::Id(id) => Some(*id),
                    _ => None,
                });
            }
        })?;
        generation.ok_or_else(|| NatError::Garbled { step, reason: "it has no number".to_owned() })
    }

    /// Reads a family's table.
    ///
    /// # Errors
    ///
    /// If the kernel refuses a list, or an answer can't be read ([`NatError::Garbled`]).
    pub fn find(&self, family: Family) -> Result<Found, NatError> {
        let mut found = Found::default();
        self.ask("listing tables", &messages::list_tables(family), |message| {
            if let NfTablesMessage::NewTable(message) = message {
                found.take_table(&message.attributes);
            }
        })?;
        if !found.exists {
            return Ok(found);
        }
        self.ask("listing sets", &messages::list_sets(family), |message| {
            if let NfTablesMessage::NewSet(message) = message {
                found.take_set(&message.attributes);
            }
        })?;
        self.ask("listing chains", &messages::list_chains(family), |message| {
            if let NfTablesMessage::NewChain(message) = message {
                found.take_chain(&message.attributes);
            }
        })?;
        let chains = &mut found.chains;
        self.list("listing rules", &messages::list_rules(family), |payload| {
            if let Some((chain, comment)) = messages::rule(payload)? {
                chains.entry(chain).or_default().comments.push(comment);
            }
            Ok(())
        })?;
        for set in Set::ALL.into_iter().filter(|set| !set.is_dynamic()) {
            if !found.sets.contains_key(set.name()) {
                continue;
            }
            let found = &mut found;
            self.list("listing elements", &messages::list_elements(family, set), |payload| {
                found.take_elements(messages::elements(set, payload)?);
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// Brings a family's table from what was found there to these chains and contents, in one transaction. A table
    /// that does not fit is replaced whole, whatever is late. Chains that are `late` stay as they are, where they
    /// have rules; once contents are `complete`, where they begin as they should. Until then, what may only be late
    /// and chains that are not wanted stay, too. Returns whether anything was done.
    ///
    /// # Errors
    ///
    /// If the kernel refuses a part of the transaction, which the error names; then the table is as it was.
    pub fn bring(
        &self,
        found: &Found,
        chains: &Chains,
        late: &BTreeSet<&'static str>,
        contents: &Contents,
        complete: bool,
    ) -> Result<bool, NatError> {
        let family = contents.family();
        let mut transaction = Transaction::new();
        if !found.fits(family, chains) {
            if found.exists {
                transaction.delete_table(family);
            }
            load(&mut transaction, family, chains, contents.iter());
            self.commit("loading the table", transaction)?;
            return Ok(true);
        }
        for (name, chain) in chains {
            if !found.chains.contains_key(name) {
                transaction.add_chain(family, name, chain.hook);
            }
        }
        for (name, chain) in chains {
            let comments: Vec<_> = chain.rules.iter().map(messages::comment).collect();
            let known = found.chains.get(name).map(|chain| &chain.comments);
            // Once contents are complete, what is late is only the end of a chain.
            let may_stay = |known: &Vec<Vec<u8>>| match complete {
                true => known.starts_with(&comments),
                false => !known.is_empty(),
            };
            let stays = late.contains(name.as_str()) && known.is_some_and(may_stay);
            if stays || known == Some(&comments) {
                continue;
            }
            if known.is_some_and(|known| !known.is_empty()) {
                transaction.delete_rules(family, name);
            }
            transaction.add_rules(family, name, chain);
        }
        let mut change = contents.difference(&found.elements);
        if !complete {
            late::keep(&mut change, contents, &found.elements);
        }
        transaction.delete_elements(family, &change.removed);
        transaction.add_elements(family, pairs(&change.added));
        let gone = || found.chains.keys().filter(|name| complete && !chains.contains_key(*name));
        for name in gone() {
            transaction.delete_rules(family, name);
        }
        for name in gone() {
            transaction.delete_chain(family, name);
        }
        if transaction.is_empty() {
            return Ok(false);
        }
        self.commit("repairing the table", transaction)?;
        Ok(true)
    }

    /// Tries whether the kernel has all that a table needs: makes one and removes it, in one
    /// transaction, so that nobody ever sees it.
    ///
    /// # Errors
    ///
    /// If the kernel refuses a part, which the error names: it lacks nf_tables, NAT or an expression, or
    /// CAP_NET_ADMIN is missing. Nothing is left behind.
    pub fn try_out(&self, family: Family) -> Result<(), NatError> {
        let mut transaction = Transaction::about("lb-preflight");
        let any = Draw::Any { outside: false, slots: 2 };
        let stay = Draw::Stay { reach: Reach::Cluster, seconds: 1, slots: 2 };
        let chains = chains(family, &Surroundings::default(), &[any, stay].into());
        load(&mut transaction, family, &chains, std::iter::empty());
        transaction.delete_table(family);
        self.commit("trying a table", transaction)
    }

    /// Makes an empty table that is this way's own: nobody else can change it, and it goes with this.
    ///
    /// # Errors
    ///
    /// If there is such a table that is not this way's own, the kernel knows no owners of tables (before 5.12) or
    /// has no nf_tables, or CAP_NET_ADMIN is missing.
    pub fn own(&self, table: &'static str) -> Result<(), NatError> {
        let mut transaction = Transaction::about(table);
        transaction.own_table(Family::V4);
        self.commit("claiming the packet path", transaction)
    }

    /// Changes a table that is as it was left: adds the chains `new`, does what `change` says, and removes
    /// the chains `gone`, which no element leads to then.
    ///
    /// # Errors
    ///
    /// If the kernel refuses a part, which the error names: the table is not as it was left, or there is no memory.
    /// All is one transaction, so the table is as it was.
    pub fn apply(
        &self,
        family: Family,
        new: &Chains,
        change: &Change,
        gone: &[String],
    ) -> Result<(), NatError> {
        let mut transaction = Transaction::new();
        for (name, chain) in new {
            transaction.add_chain(family, name, chain.hook);
        }
        for (name, chain) in new {
            transaction.add_rules(family, name, chain);
        }
        transaction.delete_elements(family, &change.removed);
        transaction.add_elements(family, pairs(&change.added));
        for name in gone {
            transaction.delete_rules(family, name);
            transaction.delete_chain(family, name);
        }
        if transaction.is_empty() {
            return Ok(());
        }
        self.commit("changing the table", transaction)
    }

    /// Whether there is a family's table.
    ///
    /// # Errors
    ///
    /// As [`Self::has_table`].
    pub fn has(&self, family: Family) -> Result<bool, NatError> {
        self.has_table(family, TABLE)
    }

    /// Whether a family has a table of this name.
    ///
    /// # Errors
    ///
    /// If the kernel can't be asked or refuses to answer, as without CAP_NET_ADMIN. A kernel without nf_tables is
    /// no error: it has no tables.
    pub fn has_table(&self, family: Family, table: &str) -> Result<bool, NatError> {
        let mut exists = false;
        let listed = self.ask("listing tables", &messages::list_tables(family), |message| {
            if let NfTablesMessage::NewTable(message) = message {
                exists |= message.attributes.contains(&TableAttribute::Name(table.into()));
            }
        });
        match listed {
            // A kernel without nf_tables has none.
            Err(NatError::Refused { source, .. })
                if matches!(
                    source.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
                ) =>
            {
                return Ok(false);
            }
            listed => listed?,
        }
        Ok(exists)
    }

    /// Removes a family's table. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// As [`Self::has_table`]; and if the kernel refuses to remove it, and then it stays.
    pub fn remove(&self, family: Family) -> Result<bool, NatError> {
        let exists = self.has(family)?;
        if exists {
            let mut transaction = Transaction::new();
            transaction.delete_table(family);
            self.commit("removing the table", transaction)?;
        }
        Ok(exists)
    }

    fn commit(&self, step: &'static str, transaction: Transaction) -> Result<(), NatError> {
        let (bytes, last, parts) = transaction.finish();
        // A transaction is one datagram, however long.
        setsockopt(&self.socket, sockopt::SndBufForce, &bytes.len())
            .map_err(|error| NatError::Socket { step, source: error.into() })?;
        self.send(step, &bytes)?;
        let mut refused = None;
        self.receive(step, |message| {
            let number = message.header.sequence_number;
            if let NetlinkPayload::Error(error) = &message.payload
                && error.code.is_some()
            {
                refused.get_or_insert((number, error.to_io()));
            }
            // If not even the first can be worked on, the others are not looked at.
            Ok(number == last || (refused.is_some() && number == 1))
        })?;
        match refused {
            None => Ok(()),
            Some((number, source)) => {
                let part = Transaction::part(&parts, number);
                Err(NatError::Refused { step, part, source })
            }
        }
    }

    /// Sends a request and shows each answer to `take`.
    fn ask(
        &self,
        step: &'static str,
        request: &[u8],
        mut take: impl FnMut(NfTablesMessage),
    ) -> Result<(), NatError> {
        self.send(step, request)?;
        self.receive(step, |message| {
            match &message.payload {
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    let part = "to answer".to_owned();
                    return Err(NatError::Refused { step, part, source: error.to_io() });
                }
                _ => {}
            }
            let multipart = message.header.flags & netlink_packet_core::NLM_F_MULTIPART != 0;
            if let Some(message) = messages::nftables(message) {
                take(message);
            }
            Ok(!multipart)
        })
    }

    /// Shows what is in each message of an answer. There are many, so they are not made into the
    /// library's messages first.
    pub(super) fn list(
        &self,
        step: &'static str,
        request: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), DecodeError>,
    ) -> Result<(), NatError> {
        let garbled = |reason: String| NatError::Garbled { step, reason };
        self.send(step, request)?;
        self.receive_each(step, |bytes| {
            let message = NetlinkBuffer::new(bytes);
            match message.message_type() {
                DONE => Ok(true),
                ERROR => Err(garbled("it is an error".to_owned())),
                _ => {
                    take(message.payload()).map_err(|error| garbled(error.to_string()))?;
                    Ok(false)
                }
            }
        })
    }

    /// Sends a request about one connection; whether there is such a one.
    pub(super) fn about_one(&self, step: &'static str, request: &[u8]) -> Result<bool, NatError> {
        self.send(step, request)?;
        let mut there = true;
        self.receive(step, |message| {
            if let NetlinkPayload::Error(error) = &message.payload
                && error.code.is_some()
            {
                there = false;
                let source = error.to_io();
                if source.kind() != io::ErrorKind::NotFound {
                    return Err(NatError::Refused { step, part: "the request".to_owned(), source });
                }
            }
            Ok(true)
        })?;
        Ok(there)
    }

    fn send(&self, step: &'static str, bytes: &[u8]) -> Result<(), NatError> {
        match self.socket.send(bytes, 0) {
            Ok(sent) if sent == bytes.len() => Ok(()),
            Ok(_) => {
                Err(NatError::Socket { step, source: io::Error::from(io::ErrorKind::WriteZero) })
            }
            Err(source) => Err(NatError::Socket { step, source }),
        }
    }

    /// Shows each message that comes to `take`, until it says that it was the last.
    fn receive(
        &self,
        step: &'static str,
        mut take: impl FnMut(Message) -> Result<bool, NatError>,
    ) -> Result<(), NatError> {
        self.receive_each(step, |bytes| {
            let garbled = |reason: String| NatError::Garbled { step, reason };
            take(Message::deserialize(bytes).map_err(|error| garbled(error.to_string()))?)
        })
    }

    fn receive_each(
        &self,
        step: &'static str,
        mut take: impl FnMut(&[u8]) -> Result<bool, NatError>,
    ) -> Result<(), NatError> {
        let mut answer = Vec::with_capacity(ANSWER);
        loop {
            answer.clear();
            let received = self.socket.recv(&mut answer, 0);
            received.map_err(|source| NatError::Socket { step, source })?;
            let mut rest = &answer[..];
            while !rest.is_empty() {
                let message = NetlinkBuffer::new_checked(rest)
                    .map_err(|error| NatError::Garbled { step, reason: error.to_string() })?;
                let length = message.length() as usize;
                if take(&rest[..length])? {
                    return Ok(());
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

fn pairs(elements: &[(Key, Value)]) -> impl Iterator<Item = (&Key, &Value)> {
    elements.iter().map(|(key, value)| (key, value))
}

fn load<'e>(
    transaction: &mut Transaction,
    family: Family,
    chains: &Chains,
    elements: impl Iterator<Item = (&'e Key, &'e Value)>,
) {
    transaction.add_table(family);
    for (id, set) in (1..).zip(Set::ALL) {
        transaction.add_set(family, set, id);
    }
    for (name, chain) in chains {
        transaction.add_chain(family, name, chain.hook);
    }
    for (name, chain) in chains {
        transaction.add_rules(family, name, chain);
    }
    transaction.add_elements(family, elements);
}
