//! What a query is answered with: pure, from the bytes of the query to those of the answer.
//!
//! Authoritative for the zone, and for the names of the addresses that are served; everything else is
//! refused. An answer that does not fit is cut to nothing with the TC bit set, which sends the client
//! to TCP.

use crate::names::Facts;
use crate::names::records::Srv;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Edns, Header, HeaderCounts, MessageType, Metadata, OpCode};
use hickory_server::proto::op::{Query, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, NS, PTR, SOA, SRV};
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_server::proto::serialize::binary::{
    BinDecodable, BinDecoder, BinEncodable, BinEncoder,
};
use hickory_server::server::Request;
use hickory_server::zone_handler::MessageResponseBuilder;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Largest datagram sent: fits into the smallest packet that every IPv6 network carries.
const LARGEST: u16 = 1232;
/// What everybody takes.
const SMALLEST: u16 = 512;
/// Records beside the question that a query may have: EDNS and a signature, with room.
const BESIDES: u16 = 8;

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Udp,
    Tcp,
}

/// What does not change while the responder runs.
#[derive(Debug)]
pub(super) struct Server {
    /// The addresses of the zone's name server.
    own: Vec<IpAddr>,
    ttl: u32,
}

/// What an answer says.
#[derive(Debug, Default)]
struct Content {
    code: ResponseCode,
    answers: Vec<Record>,
    authority: Vec<Record>,
    additionals: Vec<Record>,
}

// === impl Server ===

impl Server {
    pub(super) fn new(listen: &[SocketAddr], ttl: Duration) -> Self {
        let own: BTreeSet<IpAddr> = listen.iter().map(SocketAddr::ip).collect();
        let ttl = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
        Self { own: own.into_iter().collect(), ttl }
    }

    /// The answer to a message, if it gets one. Without facts nothing is known yet.
    pub(super) fn answer(
        &self,
        message: &[u8],
        source: SocketAddr,
        way: Way,
        facts: Option<&Facts>,
    ) -> Option<Vec<u8>> {
        let header = Header::read(&mut BinDecoder::new(message)).ok()?;
        let Header { metadata, counts } = header;
        // Two servers must not answer each other's answers for ever.
        if metadata.message_type == MessageType::Response || source.port() == 0 {
            return None;
        }
        if metadata.op_code != OpCode::Query {
            return bare(&metadata, ResponseCode::NotImp);
        }
        let HeaderCounts { queries, answers, authorities, additionals } = counts;
        if queries != 1 || answers > 0 || authorities > 0 || additionals > BESIDES {
            return bare(&metadata, ResponseCode::FormErr);
        }
        if !is_written_out(message) {
            return bare(&metadata, ResponseCode::FormErr);
        }
        let protocol = if way == Way::Udp { Protocol::Udp } else { Protocol::Tcp };
        let Ok(request) = Request::from_bytes(message.to_vec(), source, protocol) else {
            return bare(&metadata, ResponseCode::FormErr);
        };
        let Some(query) = request.queries.queries().first() else {
            return bare(&metadata, ResponseCode::FormErr);
        };
        let content = match &request.edns {
            Some(edns) if edns.version() > 0 => Content::code(ResponseCode::BADVERS),
            _ => self.content(query.original(), facts),
        };
        let limit = match way {
            Way::Tcp => u16::MAX,
            Way::Udp => request.max_payload().clamp(SMALLEST, LARGEST),
        };
        encode(&request, content, limit).or_else(|| bare(&metadata, ResponseCode::ServFail))
    }

    fn content(&self, query: &Query, facts: Option<&Facts>) -> Content {
        let kind = query.query_type();
        if query.query_class() != DNSClass::IN
            || matches!(kind, RecordType::AXFR | RecordType::IXFR)
        {
            return Content::code(ResponseCode::Refused);
        }
        let Some(facts) = facts else {
            return Content::code(ResponseCode::ServFail);
        };
        let asked = query.name();
        let name = asked.to_ascii().to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        if let Some(address) = address_of(name) {
            return self.reverse(asked, kind, &address, facts);
        }
        let zone = facts.records.zone().as_str();
        if name == zone {
            return self.apex(asked, kind, facts);
        }
        if !name.strip_suffix(zone).is_some_and(|rest| rest.ends_with('.')) {
            return Content::code(ResponseCode::Refused);
        }
        let own = self.found(name, facts);
        let Some((addresses, services)) = own else {
            if !facts.complete {
                return Content::code(ResponseCode::ServFail);
            }
            return self.nothing(ResponseCode::NXDomain, facts);
        };
        let mut content = Content::default();
        let wanted = |other| kind == other || kind == RecordType::ANY;
        content
            .answers
            .extend(self.addresses(asked, &addresses).filter(|r| wanted(r.record_type())));
        if kind == RecordType::SRV || (kind == RecordType::ANY && content.answers.is_empty()) {
            self.services(asked, &services, facts, &mut content);
        }
        if content.answers.is_empty() {
            self.nothing(ResponseCode::NoError, facts)
        } else {
            content
        }
    }

    /// What a name below the zone stands for: a service's, or the name server's.
    fn found(&self, name: &str, facts: &Facts) -> Option<(Vec<IpAddr>, Vec<Srv>)> {
        if let Some(found) = facts.records.find(name) {
            return Some((found.addresses, found.services));
        }
        let server = server_name(facts.records.zone().as_str());
        if name == server {
            return Some((self.own.clone(), Vec::new()));
        }
        let above = server.split_once('.').is_some_and(|(_, above)| name == above);
        above.then(|| (Vec::new(), Vec::new()))
    }

    fn apex(&self, asked: &Name, kind: RecordType, facts: &Facts) -> Content {
        let zone = facts.records.zone().as_str();
        let data = match kind {
            RecordType::SOA | RecordType::ANY => self.soa(facts),
            RecordType::NS => name_of(&server_name(zone)).map(|name| RData::NS(NS(name))),
            _ => return self.nothing(ResponseCode::NoError, facts),
        };
        let Some(data) = data else {
            return Content::code(ResponseCode::ServFail);
        };
        let mut content = Content::default();
        content.answers.push(self.record(asked.clone(), data));
        if kind == RecordType::NS {
            content.additionals.extend(self.at(&server_name(zone), &self.own));
        }
        content
    }

    /// The names of an address that is served; for what others have, others are to be asked.
    fn reverse(&self, asked: &Name, kind: RecordType, address: &IpAddr, facts: &Facts) -> Content {
        let names = facts.records.names_of(address).filter_map(name_of);
        let names: Vec<Record> =
            names.map(|name| self.record(asked.clone(), RData::PTR(PTR(name)))).collect();
        if names.is_empty() {
            return Content::code(ResponseCode::Refused);
        }
        let mut content = Content::default();
        if matches!(kind, RecordType::PTR | RecordType::ANY) {
            content.answers = names;
        } else {
            // Each such name is a zone of its own.
            content.authority.extend(self.soa(facts).map(|soa| self.record(asked.clone(), soa)));
        }
        content
    }

    /// There is nothing of what was asked for, which may be remembered for a while.
    fn nothing(&self, code: ResponseCode, facts: &Facts) -> Content {
        let mut content = Content::code(code);
        let zone = name_of(facts.records.zone().as_str());
        let soa = zone.zip(self.soa(facts)).map(|(zone, soa)| self.record(zone, soa));
        content.authority.extend(soa);
        content
    }

    fn soa(&self, facts: &Facts) -> Option<RData> {
        let zone = facts.records.zone().as_str();
        let server = name_of(&server_name(zone))?;
        let contact = name_of(&format!("hostmaster.{zone}"))?;
        // Nobody transfers the zone; the last one is how long a missing name may be remembered.
        Some(RData::SOA(SOA::new(server, contact, facts.serial, 3600, 600, 86_400, self.ttl)))
    }

    fn services(&self, asked: &Name, services: &[Srv], facts: &Facts, content: &mut Content) {
        let mut targets = BTreeSet::new();
        for Srv { port, target } in services {
            let Some(name) = name_of(target) else { continue };
            content
                .answers
                .push(self.record(asked.clone(), RData::SRV(SRV::new(0, 1, *port, name))));
            targets.insert(target.as_str());
        }
        for target in targets {
            let found = facts.records.find(target).unwrap_or_default();
            content.additionals.extend(self.at(target, &found.addresses));
        }
    }

    fn at(&self, name: &str, addresses: &[IpAddr]) -> Vec<Record> {
        name_of(name).map_or_else(Vec::new, |name| self.addresses(&name, addresses).collect())
    }

    fn addresses(&self, name: &Name, addresses: &[IpAddr]) -> impl Iterator<Item = Record> {
        addresses.iter().map(|address| {
            let data = match address {
                IpAddr::V4(v4) => RData::A(A(*v4)),
                IpAddr::V6(v6) => RData::AAAA(AAAA(*v6)),
            };
            self.record(name.clone(), data)
        })
    }

    fn record(&self, name: Name, data: RData) -> Record {
        Record::from_rdata(name, self.ttl, data)
    }
}

// === impl Content ===

impl Content {
    fn code(code: ResponseCode) -> Self {
        Self { code, ..Self::default() }
    }
}

/// The answer as bytes: whole, or without what was not asked for, or empty with TC set.
fn encode(request: &Request, content: Content, limit: u16) -> Option<Vec<u8>> {
    let Content { code, answers, authority, additionals } = &content;
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.response_code = *code;
    metadata.authoritative = matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
    let edns = request.edns.as_ref().map(|_| {
        let mut edns = Edns::new();
        edns.set_max_payload(LARGEST);
        edns
    });
    let none: &[Record] = &[];
    let (answers, authority) = (answers.as_slice(), authority.as_slice());
    let attempts = [
        (answers, authority, additionals.as_slice(), false),
        (answers, authority, none, false),
        (none, none, none, true),
    ];
    for (answers, authority, additionals, cut) in attempts {
        metadata.truncation = cut;
        let mut bytes = Vec::with_capacity(usize::from(SMALLEST));
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(limit);
        let response = MessageResponseBuilder::new(&request.queries, edns.as_ref());
        let response = response.build(metadata, answers, authority, none, additionals);
        let info = response.destructive_emit(&mut encoder).ok()?;
        if cut || !info.truncation {
            return Some(bytes);
        }
    }
    None
}

/// An answer that is a header only, for what can't be read or is not done here.
fn bare(request: &Metadata, code: ResponseCode) -> Option<Vec<u8>> {
    let mut metadata = Metadata::response_from_request(request);
    metadata.response_code = code;
    let mut bytes = Vec::new();
    let header = Header { metadata, counts: HeaderCounts::default() };
    header.emit(&mut BinEncoder::new(&mut bytes)).ok()?;
    Some(bytes)
}

/// Whether the question's name stands there label by label. No name comes before it, so what it points at is
/// something else, and in the answer, which repeats the question as it is, something else again.
fn is_written_out(message: &[u8]) -> bool {
    const HEADER: usize = 12;
    const LONGEST_LABEL: u8 = 63;
    let mut rest = message.get(HEADER..).unwrap_or_default();
    while let Some((length, after)) = rest.split_first() {
        match *length {
            0 => break,
            1..=LONGEST_LABEL => rest = after.get(usize::from(*length)..).unwrap_or_default(),
            _ => return false,
        }
    }
    true
}

/// The zone's name server: us.
fn server_name(zone: &str) -> String {
    format!("ns.dns.{zone}")
}

/// A name on the wire; `None` if it is too long for that.
fn name_of(name: &str) -> Option<Name> {
    Name::from_ascii(format!("{name}.")).ok()
}

/// The address that a name below in-addr.arpa or ip6.arpa is about.
fn address_of(name: &str) -> Option<IpAddr> {
    if let Some(rest) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<&str> = rest.rsplit('.').collect();
        // Numbers as addresses write them: no signs, no zeros before them.
        return (octets.len() == 4)
            .then(|| octets.join(".").parse::<Ipv4Addr>().ok())?
            .map(IpAddr::V4);
    }
    let rest = name.strip_suffix(".ip6.arpa")?;
    let digits: Vec<&str> = rest.rsplit('.').collect();
    let single = |digit: &&str| digit.len() == 1 && digit.chars().all(|c| c.is_ascii_hexdigit());
    if digits.len() != 32 || !digits.iter().all(single) {
        return None;
    }
    let bits = u128::from_str_radix(&digits.concat(), 16).ok()?;
    Some(IpAddr::V6(Ipv6Addr::from_bits(bits)))
}

#[cfg(test)]
mod tests;
