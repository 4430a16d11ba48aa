//! What whoever traces is told: each decision, and what becomes of TCP connects.
//!
//! While nobody traces that is one load and one comparison in a decision, and nothing at all for
//! what is no service.

use crate::maps;
use crate::sock::{self, SockAddr, TcpCall, state};
use lb_common::outcome;
use lb_common::rows::{Address, Event, FrontendKey, OutcomeEvent};

/// When a decision was begun that somebody traces.
#[derive(Clone, Copy)]
pub(crate) struct Began(u64);

/// Where a decision led to.
pub(crate) struct Decided {
    pub(crate) backend: Address,
    pub(crate) backend_port: u16,
    pub(crate) backend_id: u32,
    pub(crate) translated: bool,
}

/// The beginning of a decision.
#[inline(always)]
pub(crate) fn begin() -> Began {
    Began(now_if_traced())
}

/// The clock, or 0 while nobody traces. Who traces and dies has said until when to write for it.
#[inline(always)]
fn now_if_traced() -> u64 {
    let until = maps::traced_until();
    if until == 0 {
        return 0;
    }
    let now = sock::now_ns();
    if now < until { now } else { 0 }
}

impl Began {
    #[inline(always)]
    pub(crate) fn is_traced(self) -> bool {
        self.0 != 0
    }

    /// Tells of a decision; to be called where [`Self::is_traced`].
    #[inline(always)]
    pub(crate) fn tell<const V6: bool>(
        self,
        sock: &SockAddr<'_, V6>,
        frontend: &FrontendKey,
        (service_id, no_backend): (u32, u8),
        decided: &Decided,
    ) {
        let took = sock::now_ns() - self.0;
        maps::emit(&Event {
            time_ns: self.0,
            cookie: sock.cookie(),
            pid_tgid: sock::pid_tgid(),
            cgroup: sock::cgroup(),
            frontend: *frontend,
            backend: decided.backend,
            backend_port: decided.backend_port,
            no_backend,
            translated: u8::from(decided.translated),
            backend_id: decided.backend_id,
            service_id,
            comm: sock::comm(),
            uid: sock::uid() as u32,
            took_ns: if took > 0xffff_ffff { 0xffff_ffff } else { took as u32 },
        });
    }
}

/// Whether what becomes of a connection is worth following to its end.
#[inline(always)]
pub(crate) fn is_traced() -> bool {
    now_if_traced() != 0
}

/// Tells of one of [`outcome`], all but the last.
#[inline(always)]
pub(crate) fn became(kind: u32, cookie: u64, backend_id: u32) {
    let time_ns = now_if_traced();
    if time_ns != 0 {
        maps::emit(&OutcomeEvent { time_ns, cookie, sent: 0, received: 0, backend_id, kind });
    }
}

/// Tells of the end of a connection that was in this state.
#[inline(always)]
pub(crate) fn closed(call: &TcpCall<'_>, from: u32) {
    let time_ns = now_if_traced();
    if time_ns == 0 {
        return;
    }
    // The kernel counts SYN and FIN as a byte each.
    let own_fin = from == state::FIN_WAIT2 || from == state::CLOSING || from == state::LAST_ACK;
    let own = 1 + u64::from(own_fin && call.all_is_acked());
    let sent = call.bytes_acked().saturating_sub(own);
    let others_fin = from == state::CLOSE_WAIT || from == state::CLOSING || from == state::LAST_ACK;
    let received = call.bytes_received().saturating_sub(u64::from(others_fin));
    let (cookie, kind) = (call.cookie(), outcome::CLOSED);
    maps::emit(&OutcomeEvent { time_ns, cookie, sent, received, backend_id: 0, kind });
}
