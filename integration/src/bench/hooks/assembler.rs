//! Instructions of the kernel's virtual machine, as far as the programs for comparison need them.
//!
//! Encoding: Documentation/bpf/standardization/instruction-set.rst of the kernel.

use std::os::fd::{AsRawFd as _, BorrowedFd};

/// A register, 0 to 10.
type Register = u8;

/// Width of a load or a store, as the instruction has it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Width {
    Half = 0x08,
    Word = 0x00,
    Double = 0x18,
}

/// A helper function of the kernel, by its number.
#[derive(Clone, Copy, Debug)]
pub(super) enum Helper {
    MapLookup = 1,
    MapUpdate = 2,
    Random = 7,
    SocketCookie = 46,
}

/// A program under construction. Its end lets the call proceed: `r0 = 1; exit`.
#[derive(Debug, Default)]
pub(super) struct Program {
    instructions: Vec<u64>,
    /// Jumps to the end.
    leaves: Vec<usize>,
}

const LOAD: u8 = 0x61;
const STORE: u8 = 0x63;
const STORE_IMMEDIATE: u8 = 0x62;
const MOVE: u8 = 0xbf;
const MOVE_IMMEDIATE: u8 = 0xb7;
const ADD_IMMEDIATE: u8 = 0x07;
const MODULO_32: u8 = 0x9c;
const JUMP_IF_EQUAL: u8 = 0x15;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const LOAD_DOUBLE: u8 = 0x18;
/// The immediate of [`LOAD_DOUBLE`] is the descriptor of a map.
const PSEUDO_MAP: u8 = 1;
/// Base of the stack.
const FRAME: Register = 10;

// === impl Program ===

impl Program {
    /// `to = from`.
    pub(super) fn set(&mut self, to: Register, from: Register) {
        self.push(MOVE, to, from, 0, 0);
    }

    /// `to = value`.
    pub(super) fn set_value(&mut self, to: Register, value: i32) {
        self.push(MOVE_IMMEDIATE, to, 0, 0, value);
    }

    /// `to += value`.
    pub(super) fn add_value(&mut self, to: Register, value: i32) {
        self.push(ADD_IMMEDIATE, to, 0, 0, value);
    }

    /// `to %= by`, of the lower 32 bits.
    pub(super) fn modulo(&mut self, to: Register, by: Register) {
        self.push(MODULO_32, to, by, 0, 0);
    }

    /// `to = *(u32 *)(base + offset)`.
    pub(super) fn load(&mut self, to: Register, base: Register, offset: i16) {
        self.push(LOAD, to, base, offset, 0);
    }

    /// `*(base + offset) = from`.
    pub(super) fn store(&mut self, width: Width, base: Register, offset: i16, from: Register) {
        self.push(STORE | width as u8, base, from, offset, 0);
    }

    /// The same at an offset from the end of the stack.
    pub(super) fn keep(&mut self, width: Width, offset: i16, from: Register) {
        self.store(width, FRAME, offset, from);
    }

    /// The same with a constant.
    pub(super) fn keep_value(&mut self, width: Width, offset: i16, value: i32) {
        self.push(STORE_IMMEDIATE | width as u8, FRAME, 0, offset, value);
    }

    /// `to` = address of a place on the stack.
    pub(super) fn point(&mut self, to: Register, offset: i16) {
        self.set(to, FRAME);
        self.add_value(to, offset.into());
    }

    /// `r0` = element of a map by the key at a place on the stack; leaves if there is none.
    pub(super) fn lookup(&mut self, map: BorrowedFd<'_>, key: i16) {
        self.map(1, map);
        self.point(2, key);
        self.call(Helper::MapLookup);
        self.leave_if_zero(0);
    }

    /// Writes an element of a map, key and value being on the stack.
    pub(super) fn update(&mut self, map: BorrowedFd<'_>, key: i16, value: i16) {
        self.map(1, map);
        self.point(2, key);
        self.point(3, value);
        self.set_value(4, 0);
        self.call(Helper::MapUpdate);
    }

    /// `r0 = helper(r1, ...)`.
    pub(super) fn call(&mut self, helper: Helper) {
        self.push(CALL, 0, 0, 0, helper as i32);
    }

    /// Goes to the end if a register is 0.
    pub(super) fn leave_if_zero(&mut self, register: Register) {
        self.leaves.push(self.instructions.len());
        self.push(JUMP_IF_EQUAL, register, 0, 0, 0);
    }

    /// The instructions, jumps resolved.
    pub(super) fn finish(mut self) -> Vec<u64> {
        let end = self.instructions.len();
        for place in std::mem::take(&mut self.leaves) {
            let distance = u64::try_from(end - place - 1).unwrap_or_default() & 0xffff;
            self.instructions[place] |= distance << 16;
        }
        self.set_value(0, 1);
        self.push(EXIT, 0, 0, 0, 0);
        self.instructions
    }

    fn map(&mut self, to: Register, map: BorrowedFd<'_>) {
        self.push(LOAD_DOUBLE, to, PSEUDO_MAP, 0, map.as_raw_fd());
        // Upper half of the constant.
        self.instructions.push(0);
    }

    fn push(&mut self, code: u8, to: Register, from: Register, offset: i16, value: i32) {
        let [low, high] = offset.to_le_bytes();
        let [a, b, c, d] = value.to_le_bytes();
        self.instructions.push(u64::from_le_bytes([code, from << 4 | to, low, high, a, b, c, d]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_encoded_as_the_kernel_reads_them() {
        let mut program = Program::default();
        program.leave_if_zero(3);
        program.load(2, 6, 24);
        program.keep(Width::Half, -12, 2);
        let expected =
            [0x0000_0000_0002_0315, 0x0000_0000_0018_6261, 0x0000_0000_fff4_2a6b, 0x1_0000_00b7];
        assert_eq!(program.finish()[..4], expected);
    }
}
