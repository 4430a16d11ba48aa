//! `confined UNIT STATE RUNTIME KEEP`: becomes the program of a systemd unit, under its limits. See
//! [`integration::confine`].

use anyhow::Context as _;
use integration::confine::unit::Unit;
use integration::confine::{Places, exec};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let mut next = || arguments.next().context("usage: confined UNIT STATE RUNTIME KEEP");
    let unit = Unit::parse(&std::fs::read_to_string(next()?)?)?;
    exec(&unit, &Places { state: next()?.into(), runtime: next()?.into(), keep: next()?.into() })
}
