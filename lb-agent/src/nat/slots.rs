//! Which backend each slot of a list leads to: a packet draws a slot, all alike, so weights become
//! numbers of slots. Pure.

/// Slots that a list may take to say its weights, whatever its length.
const FEW: u64 = 128;
/// Slots for each backend, if that is more.
const EACH: u64 = 8;

/// For each slot the place of its backend. Equal weights take one slot each, others as many as say
/// them exactly or, where that would be too many, nearly: each backend has one at least.
pub fn slots(weights: &[u16]) -> Vec<usize> {
    let weights: Vec<u64> = weights.iter().map(|weight| u64::from(*weight).max(1)).collect();
    let Some(divisor) = weights.iter().copied().reduce(gcd) else { return Vec::new() };
    let exact: u64 = weights.iter().map(|weight| weight / divisor).sum();
    let most = FEW.max(EACH * weights.len() as u64);
    let counts = if exact <= most {
        weights.iter().map(|weight| weight / divisor).collect()
    } else {
        shares(&weights, most)
    };
    let repeat = |(at, count): (usize, &u64)| std::iter::repeat_n(at, *count as usize);
    counts.iter().enumerate().flat_map(repeat).collect()
}

/// `most` slots by largest remainder, after one for each.
fn shares(weights: &[u64], most: u64) -> Vec<u64> {
    let total: u64 = weights.iter().sum();
    let rest = most - weights.len() as u64;
    let mut counts: Vec<u64> = weights.iter().map(|weight| 1 + weight * rest / total).collect();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by_key(|at| std::cmp::Reverse(weights[*at] * rest % total));
    let left = most - counts.iter().sum::<u64>();
    for at in by_remainder.into_iter().take(left as usize) {
        counts[at] += 1;
    }
    counts
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_become_slots() {
        for (weights, expected) in [
            (&[][..], &[][..]),
            (&[7], &[0]),
            (&[5, 5, 5], &[0, 1, 2]),
            (&[1, 3], &[0, 1, 1, 1]),
            (&[20, 10], &[0, 0, 1]),
        ] {
            assert_eq!(slots(weights), expected, "{weights:?}");
        }
    }

    #[test]
    fn odd_weights_are_said_nearly() {
        let weights = [65_535, 1, 32_768];
        let slots = slots(&weights);
        assert_eq!(slots.len(), 128);
        let count = |at| slots.iter().filter(|slot| **slot == at).count();
        assert_eq!((count(0), count(1), count(2)), (84, 1, 43));
    }
}
