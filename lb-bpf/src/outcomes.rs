//! What becomes of connects that were translated: established, refused, unanswered, or given up.
//!
//! The kernel calls this program a few times for every connection under the cgroup. Only when a
//! translated socket dials does it ask for more: for the end of the attempt, and for the first time
//! that no answer comes. With the end, the callbacks are switched off again, in the callback that
//! comes before the one in which other programs switch on theirs. While somebody traces, changes of
//! state stay on, to hear of the connection's end.
//!
//! Of a socket that is closed while it dials, `sock_release` hears first, and frees the row: that is
//! where giving up is counted then. The other ways to give up come by here.

use crate::connections;
use crate::maps::{self, Outcomes, Remembered};
use crate::sock::{self, Moment, PROCEED, TcpCall, state};
use crate::tracing;
use lb_common::rows::FailureRecord;
use lb_common::{failure, outcome};

const ECONNABORTED: i32 = 103;
const ECONNRESET: i32 = 104;
const ETIMEDOUT: i32 = 110;
const ECONNREFUSED: i32 = 111;

#[inline(always)]
pub(crate) fn told(call: &TcpCall<'_>) -> u32 {
    match call.moment() {
        Moment::Dials => dials(call),
        Moment::TimedOut(earlier) => timed_out(call, earlier),
        Moment::Changes(from, to) => changes(call, from, to),
        Moment::Other => {}
    }
    // Other programs' answers to the kernel's questions stay as they are.
    PROCEED.cast_unsigned()
}

#[inline(always)]
fn dials(call: &TcpCall<'_>) {
    let (address, port) = call.peer();
    // Most sockets that go elsewhere are done with here.
    if maps::may_be_backend(&address, port) && backend_of(call).is_some() {
        call.watch();
    }
}

#[inline(always)]
fn timed_out(call: &TcpCall<'_>, earlier: u32) {
    if earlier != 0 || !call.is_dialling() {
        return;
    }
    let Some(id) = backend_of(call) else { return };
    call.mark_unanswered();
    tracing::became(outcome::UNANSWERED, call.cookie(), id);
    failed(id, failure::UNANSWERED, true);
}

#[inline(always)]
fn changes(call: &TcpCall<'_>, from: u32, to: u32) {
    // Two that dial each other, or one that dials itself, come by SYN_RECEIVED.
    if from != state::SYN_SENT && from != state::SYN_RECEIVED {
        if to == state::CLOSED {
            tracing::closed(call, from);
        }
        return;
    }
    if to == state::SYN_RECEIVED {
        return;
    }
    let Some(id) = backend_of(call) else { return };
    let failed_before = call.is_unanswered();
    if to == state::ESTABLISHED && tracing::is_traced() {
        call.mark_unanswered();
    } else {
        call.forget();
    }
    if to == state::ESTABLISHED {
        tracing::became(outcome::ESTABLISHED, call.cookie(), id);
        if let Some(outcomes) = Outcomes::of(id) {
            outcomes.established(call.srtt(), sock::now_coarse_ns());
        }
    } else if to == state::CLOSED {
        match call.error() {
            ECONNREFUSED => {
                tracing::became(outcome::REFUSED, call.cookie(), id);
                failed(id, failure::REFUSED, !failed_before);
            }
            // The application, or the operator with `ss -K`.
            0 | ECONNRESET | ECONNABORTED => abandoned(id, call.cookie()),
            // The last timeout, or ICMP. Its word may have come while the application held the
            // socket's lock: then it is heard with the last timeout.
            error => {
                let kind = match error {
                    ETIMEDOUT => outcome::TIMED_OUT,
                    _ => outcome::UNREACHABLE,
                };
                tracing::became(kind, call.cookie(), id);
                if !failed_before {
                    failed(id, failure::UNANSWERED, true);
                }
            }
        }
    }
}

/// The id of the backend that the socket was sent to, while that is where it goes.
#[inline(always)]
fn backend_of(call: &TcpCall<'_>) -> Option<u32> {
    let cookie = call.cookie();
    let remembered = match connections::of(cookie) {
        Some(remembered) => remembered,
        None => Remembered::on_mptcp(call.mptcp()?.as_ptr(), false)?,
    };
    let row = remembered.row();
    let (address, port) = call.peer();
    if row.backend != address || row.backend_port != port {
        return None;
    }
    let id = remembered.backend_id();
    // Read last. The row of another subflow, or of another socket: whoever closes this one at this
    // very moment has freed it.
    if remembered.cookie() == cookie { Some(id) } else { None }
}

/// Counts a failure; `first` if it is the first of this attempt.
#[inline(always)]
fn failed(backend_id: u32, kind: u32, first: bool) {
    let Some(outcomes) = Outcomes::of(backend_id) else { return };
    outcomes.failed(kind);
    if first {
        let time_ns = sock::now_ns();
        let consecutive = outcomes.one_more_failed(time_ns);
        maps::report(&FailureRecord { time_ns, backend_id, kind, consecutive });
    }
}

/// The attempt was given up before it was decided.
#[inline(always)]
pub(crate) fn abandoned(backend_id: u32, cookie: u64) {
    tracing::became(outcome::ABANDONED, cookie, backend_id);
    if let Some(outcomes) = Outcomes::of(backend_id) {
        outcomes.abandoned();
    }
}
