//! Text that comes in pieces, cut anywhere. Pure.

use std::str::Utf8Error;

/// What is left of a piece that ended within a character.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    begun: Vec<u8>,
}

// === impl Pieces ===

impl Pieces {
    /// Hands on the text that `piece` completes; keeps a character that is not whole for the next one.
    ///
    /// # Errors
    ///
    /// The bytes are no UTF-8, whatever comes next.
    pub(super) fn add<T>(
        &mut self,
        piece: &[u8],
        mut show: impl FnMut(&str) -> T,
    ) -> Result<T, Utf8Error> {
        if self.begun.is_empty() {
            let (text, rest) = whole(piece)?;
            self.begun.extend_from_slice(rest);
            return Ok(show(text));
        }
        self.begun.extend_from_slice(piece);
        let (text, rest) = whole(&self.begun)?;
        let (shown, rest) = (show(text), rest.to_vec());
        self.begun = rest;
        Ok(shown)
    }

    /// Whether the text ended within a character.
    pub(super) fn is_broken(&self) -> bool {
        !self.begun.is_empty()
    }
}

/// The whole characters, and the beginning of one more.
fn whole(bytes: &[u8]) -> Result<(&str, &[u8]), Utf8Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok((text, &[])),
        Err(error) if error.error_len().is_some() => Err(error),
        Err(error) => {
            let (text, rest) = bytes.split_at(error.valid_up_to());
            Ok((std::str::from_utf8(text)?, rest))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn join(pieces: &[&[u8]]) -> Result<(String, bool), Utf8Error> {
        let (mut state, mut all) = (Pieces::default(), String::new());
        for piece in pieces {
            state.add(piece, |text| all.push_str(text))?;
        }
        Ok((all, state.is_broken()))
    }

    proptest! {
        #[test]
        fn whatever_is_cut_is_joined(text in "[a-zäß€😀]{0,20}", mut cuts in prop::collection::vec(0usize..60, 0..6)) {
            let bytes = text.as_bytes();
            cuts.iter_mut().for_each(|cut| *cut = (*cut).min(bytes.len()));
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            prop_assert_eq!(join(&pieces).unwrap(), (text, false));
        }
    }

    #[test]
    fn what_is_no_text() {
        assert!(join(&[b"ab\xff"]).is_err());
        assert!(join(&[b"ab\xe2\x82", b"x"]).is_err());
        assert_eq!(join(&[b"ab\xe2\x82"]).unwrap(), ("ab".to_owned(), true));
    }
}
