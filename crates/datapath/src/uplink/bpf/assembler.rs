//! An assembler for as much of eBPF as the three programs need.
//!
//! A program is a list of 64-bit instructions with forward jumps to labels. What the verifier
//! wants proved is the verifier's affair; what is checked here is that every label is placed and
//! every jump fits.

use std::os::fd::{AsRawFd, BorrowedFd};

/// A register: R0 holds results, R1 to R5 arguments, R6 to R9 survive calls, R10 is the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Reg {
    R0 = 0,
    R1 = 1,
    R2 = 2,
    R3 = 3,
    R4 = 4,
    R6 = 6,
    R7 = 7,
    R8 = 8,
    R10 = 10,
}

/// How many octets a load or store moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Size {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
}

/// A kernel function that programs may call, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Helper {
    MapLookup = 1,
    LoadBytes = 26,
    RedirectMap = 51,
}

/// When a jump is taken, comparing a register with a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum When {
    Equal = 0x15,
    NotEqual = 0x55,
    Above = 0x25,
    Below = 0xa5,
}

/// A place to jump to, placed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

/// A label was never placed, or lies too far away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a jump of the program has no target within reach")]
pub(super) struct BadJump;

#[derive(Clone, Copy, Debug)]
struct Instruction {
    opcode: u8,
    registers: u8,
    offset: i16,
    constant: i32,
}

/// A program in the making.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    instructions: Vec<Instruction>,
    labels: Vec<Option<usize>>,
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    fn push(&mut self, opcode: u8, dst: u8, src: u8, offset: i16, constant: i32) {
        let registers = (src << 4) | dst;
        self.instructions.push(Instruction { opcode, registers, offset, constant });
    }

    /// A label that is not placed yet.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len().saturating_sub(1))
    }

    /// Places a label before the next instruction.
    pub fn place(&mut self, label: Label) {
        if let Some(place) = self.labels.get_mut(label.0) {
            *place = Some(self.instructions.len());
        }
    }

    /// dst = src
    pub fn copy(&mut self, dst: Reg, src: Reg) {
        self.push(0xbf, dst as u8, src as u8, 0, 0);
    }

    /// dst = constant
    pub fn set(&mut self, dst: Reg, constant: i32) {
        self.push(0xb7, dst as u8, 0, 0, constant);
    }

    /// dst += constant
    pub fn add(&mut self, dst: Reg, constant: i32) {
        self.push(0x07, dst as u8, 0, 0, constant);
    }

    /// dst = what lies at base + offset
    pub fn load(&mut self, size: Size, dst: Reg, base: Reg, offset: i16) {
        self.push(0x61 | size as u8, dst as u8, base as u8, offset, 0);
    }

    /// what lies at base + offset = constant
    pub fn store(&mut self, size: Size, base: Reg, offset: i16, constant: i32) {
        self.push(0x62 | size as u8, base as u8, 0, offset, constant);
    }

    /// what lies at base + offset = a register's word
    pub fn store_register(&mut self, base: Reg, offset: i16, src: Reg) {
        self.push(0x63, base as u8, src as u8, offset, 0);
    }

    /// dst = the map behind a descriptor
    pub fn load_map(&mut self, dst: Reg, map: BorrowedFd<'_>) {
        const PSEUDO_MAP_FD: u8 = 1;
        self.push(0x18, dst as u8, PSEUDO_MAP_FD, 0, map.as_raw_fd());
        self.push(0, 0, 0, 0, 0);
    }

    /// R0 = helper(R1, ..)
    pub fn call(&mut self, helper: Helper) {
        self.push(0x85, 0, 0, 0, helper as i32);
    }

    /// Jumps if the register compares so with the constant.
    pub fn jump(&mut self, when: When, register: Reg, constant: i32, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.push(when as u8, register as u8, 0, 0, constant);
    }

    /// Jumps if the register's lower 32 bits are not these.
    pub fn jump_unless_word(&mut self, register: Reg, word: u32, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.push(0x56, register as u8, 0, 0, word.cast_signed());
    }

    /// Jumps if the first register is above the second.
    pub fn jump_above(&mut self, register: Reg, other: Reg, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.push(0x2d, register as u8, other as u8, 0, 0);
    }

    /// Jumps.
    pub fn go(&mut self, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.push(0x05, 0, 0, 0, 0);
    }

    /// Ends the program with what is in R0.
    pub fn finish(&mut self) {
        self.push(0x95, 0, 0, 0, 0);
    }

    /// Ends the program with a value.
    pub fn finish_with(&mut self, value: i32) {
        self.set(Reg::R0, value);
        self.finish();
    }

    /// The program's octets.
    pub fn assemble(mut self) -> Result<Vec<u8>, BadJump> {
        for (at, label) in &self.jumps {
            let target = self.labels.get(label.0).copied().flatten().ok_or(BadJump)?;
            let next = at.checked_add(1).ok_or(BadJump)?;
            let distance = target.checked_sub(next).ok_or(BadJump)?;
            let jump = self.instructions.get_mut(*at).ok_or(BadJump)?;
            jump.offset = i16::try_from(distance).map_err(|_| BadJump)?;
        }
        let octets = |i: &Instruction| {
            let [o0, o1] = i.offset.to_ne_bytes();
            let [c0, c1, c2, c3] = i.constant.to_ne_bytes();
            [i.opcode, i.registers, o0, o1, c0, c1, c2, c3]
        };
        Ok(self.instructions.iter().flat_map(octets).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_counts_the_instructions_between_it_and_its_label() {
        let mut a = Assembler::default();
        let end = a.label();
        a.load(Size::Word, Reg::R0, Reg::R1, 4);
        a.jump(When::Above, Reg::R0, 2, end);
        a.set(Reg::R2, 7);
        a.place(end);
        a.finish_with(-1);
        let program = a.assemble().unwrap();
        assert_eq!(
            program,
            [
                [0x61, 0x10, 4, 0, 0, 0, 0, 0],
                [0x25, 0x00, 1, 0, 2, 0, 0, 0],
                [0xb7, 0x02, 0, 0, 7, 0, 0, 0],
                [0xb7, 0x00, 0, 0, 0xff, 0xff, 0xff, 0xff],
                [0x95, 0, 0, 0, 0, 0, 0, 0],
            ]
            .concat()
        );
    }

    #[test]
    fn a_label_that_is_nowhere_or_behind_is_refused() {
        let mut nowhere = Assembler::default();
        let label = nowhere.label();
        nowhere.go(label);
        assert_eq!(nowhere.assemble(), Err(BadJump));
        let mut behind = Assembler::default();
        let label = behind.label();
        behind.place(label);
        behind.go(label);
        assert_eq!(behind.assemble(), Err(BadJump));
    }
}
