//! The grace period, by a program that is running; the namespace's cookie.

use super::probe::{instruction, load};
use super::*;
use std::hint::spin_loop;
use std::thread;

/// How long the program runs: the time to come from seeing it to the end of a wait that does not.
const RUNNING: i32 = 100_000_000;
/// A machine that is busy with all else may see the program only when it has ended.
const TRIES: usize = 50;

/// A program that says 1, copies memory for a while, and says 2.
struct Slow {
    program: OwnedFd,
    said: Mapped<u64>,
}

impl Slow {
    fn load() -> Self {
        /// So large that few copies last, and the verifier walks few rounds of a loop.
        const LARGE: u32 = 2 << 20;
        let [from, to] = [array(LARGE), array(LARGE)];
        let said = array(8);
        let program = load(&running(&said, &from, &to)).unwrap();
        Self { program, said: Mapped::new(said.as_fd(), 1, true).unwrap() }
    }

    /// What the program has said when `wait`, which began while it was running, has returned; `None`
    /// if it was never seen running.
    fn says_after(&self, wait: fn() -> io::Result<()>) -> Option<u64> {
        self.said.set(0, 0);
        thread::scope(|scope| {
            let run = scope.spawn(|| run_once(self.program.as_fd(), &[0; 64]));
            while self.said.get(0) == Some(0) && !run.is_finished() {
                spin_loop();
            }
            let seen = self.said.get(0) == Some(1);
            wait().unwrap();
            let says = self.said.get(0);
            run.join().unwrap().unwrap();
            says.filter(|_| seen)
        })
    }
}

/// An array of one element, which can be mapped.
fn array(value_size: u32) -> OwnedFd {
    const ARRAY: u32 = 2;
    const MAPPABLE: u32 = 1 << 10;
    let attributes = MapCreate {
        map_type: ARRAY,
        key_size: 4,
        value_size,
        max_entries: 1,
        flags: MAPPABLE,
        ..MapCreate::default()
    };
    bpf(bpf_cmd::BPF_MAP_CREATE, &attributes).and_then(new_fd).unwrap()
}

/// Runs on every supported kernel: one loop, with an end that the verifier sees.
fn running(said: &OwnedFd, from: &OwnedFd, to: &OwnedFd) -> Vec<u64> {
    /// As many copies take longer than the program may run.
    const COPIES: i32 = 4000;
    const MAP_UPDATE_ELEM: i32 = 2;
    const KTIME_GET_NS: i32 = 5;
    let call = |helper| instruction(0x85, 0, 0, 0, helper);
    // A table, or the place of its one value.
    let table = |register, fd: &OwnedFd| [instruction(0x18, register, 1, 0, fd.as_raw_fd()), 0];
    let value = |register, fd: &OwnedFd| [instruction(0x18, register, 2, 0, fd.as_raw_fd()), 0];
    let begin = [
        // The key, 0, on the stack; the copies so far; and 1 is said.
        instruction(0x62, 10, 0, -4, 0),
        instruction(0xb7, 8, 0, 0, 0),
        instruction(0x7a, 6, 0, 0, 1),
        call(KTIME_GET_NS),
        instruction(0xbf, 9, 0, 0, 0),
    ];
    let copy = [
        instruction(0xbf, 2, 10, 0, 0),
        instruction(0x07, 2, 0, 0, -4),
        instruction(0xbf, 3, 7, 0, 0),
        instruction(0xb7, 4, 0, 0, 0),
        call(MAP_UPDATE_ELEM),
        // Out of the loop after this time, and after so many.
        call(KTIME_GET_NS),
        instruction(0x1f, 0, 9, 0, 0),
        instruction(0x25, 0, 0, 2, RUNNING),
        instruction(0x07, 8, 0, 0, 1),
        instruction(0xa5, 8, 0, -12, COPIES),
    ];
    let end = [
        instruction(0x7a, 6, 0, 0, 2),
        instruction(0xb7, 0, 0, 0, 0),
        instruction(0x95, 0, 0, 0, 0),
    ];
    let parts: [&[u64]; 6] = [&value(6, said), &value(7, from), &begin, &table(1, to), &copy, &end];
    parts.concat()
}

#[test]
fn both_ways_to_wait_wait_for_a_running_program() {
    let slow = Slow::load();
    let mut tries = (0..TRIES).filter_map(|_| slow.says_after(|| Ok(())));
    assert!(tries.any(|says| says == 1), "who does not wait was never ahead of the program");
    for wait in [wait_for_programs, wait_by_array_of_maps] {
        let says = (0..TRIES).find_map(|_| slow.says_after(wait));
        assert_eq!(says, Some(2), "the program was still running");
    }
}

#[test]
fn this_namespace_has_a_cookie() {
    assert!(netns_cookie().unwrap().is_some_and(|cookie| cookie > 0));
}
