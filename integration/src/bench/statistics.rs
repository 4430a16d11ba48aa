//! What samples come to: medians, percentiles, and how sure a ratio is.
//!
//! Subjects are measured in short turns, one after the other, so that what else goes on hits all of
//! them alike. A ratio is the median of the turns' own ratios; its 95 % interval is that of a
//! percentile bootstrap over the turns.

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

/// Samples that are drawn again from the turns.
const RESAMPLES: usize = 2000;
/// With fewer samples, nothing lies beyond the 99th percentile.
const TAIL: usize = 100;

/// A ratio and the bounds of its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// What the samples say.
    pub value: f64,
    /// Where it may be.
    pub interval: [f64; 2],
}

/// The value that half of the values do not exceed; not a number if there are none.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// The value that this share of the values does not exceed; not a number if there are none.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    of_sorted(&sorted, share)
}

/// Which of so many sorted values this share of them does not exceed.
pub fn rank(values: usize, share: f64) -> usize {
    // A product such as 7.000000000000001 is the seventh.
    let last = (values as f64 * share - 1e-9).ceil() - 1.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a length is an index"
    )]
    let index = last.max(0.0) as usize;
    index.min(values.saturating_sub(1))
}

/// What is said of the slow ones among so many samples, and its share: the 99th percentile, or the slowest.
pub fn tail(samples: usize) -> (&'static str, f64) {
    if samples < TAIL { ("max", 1.0) } else { ("p99", 0.99) }
}

/// In which order so many subjects have their turns, in this round: at random, so that nobody is always the
/// one who comes after the same other.
pub fn order(subjects: usize, seed: u64, round: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..subjects).collect();
    // Seeds that follow one another are other seeds' rounds: they must not be the same.
    let mut random = StdRng::seed_from_u64(seed.rotate_left(32) ^ round as u64);
    order.shuffle(&mut random);
    order
}

/// The ratio of what was measured in the same turns: median, and a bootstrap over the turns.
pub fn paired(ours: &[f64], others: &[f64], seed: u64) -> Estimate {
    let ratios: Vec<f64> = ours.iter().zip(others).map(|(a, b)| a / b).collect();
    bootstrap(ratios.len(), seed, |turns| {
        median(&turns.iter().map(|turn| ratios[*turn]).collect::<Vec<_>>())
    })
}

/// The ratio of two rates over all turns, each rate being the sum of what was spent by the sum of
/// what was done; a bootstrap over the turns. For what is too coarse in a single turn.
pub fn of_sums(ours: &[(f64, f64)], others: &[(f64, f64)], seed: u64) -> Estimate {
    let rate = |all: &[(f64, f64)], turns: &[usize]| {
        let sum = |of: &dyn Fn(&(f64, f64)) -> f64| turns.iter().map(|t| of(&all[*t])).sum::<f64>();
        sum(&|turn| turn.0) / sum(&|turn| turn.1)
    };
    let turns = ours.len().min(others.len());
    bootstrap(turns, seed, |turns| rate(ours, turns) / rate(others, turns))
}

fn bootstrap(turns: usize, seed: u64, of: impl Fn(&[usize]) -> f64) -> Estimate {
    let all: Vec<usize> = (0..turns).collect();
    let value = of(&all);
    if turns == 0 {
        return Estimate { value, interval: [f64::NAN; 2] };
    }
    let mut random = StdRng::seed_from_u64(seed);
    let mut drawn: Vec<f64> = (0..RESAMPLES)
        .map(|_| of(&all.iter().map(|_| random.random_range(0..turns)).collect::<Vec<_>>()))
        .collect();
    drawn.sort_by(f64::total_cmp);
    Estimate { value, interval: [of_sorted(&drawn, 0.025), of_sorted(&drawn, 0.975)] }
}

fn of_sorted(sorted: &[f64], share: f64) -> f64 {
    sorted.get(rank(sorted.len(), share)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_of_the_sample() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(median(&values), 3.0);
        assert_eq!(percentile(&values, 0.99), 5.0);
        assert_eq!(percentile(&values, 0.0), 1.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_share_of_the_values_is_not_exceeded() {
        for (values, share, index) in [
            (0, 0.5, 0),
            (1, 0.99, 0),
            (2, 0.5, 0),
            (4, 0.5, 1),
            (5, 0.5, 2),
            (100, 0.07, 6),
            (100, 0.9, 89),
            (100, 0.99, 98),
            (101, 0.99, 99),
            (1000, 0.99, 989),
            (1000, 1.0, 999),
            (1000, 0.0, 0),
        ] {
            assert_eq!(rank(values, share), index, "{share} of {values}");
        }
        assert_eq!([tail(99), tail(100)], [("max", 1.0), ("p99", 0.99)]);
    }

    #[test]
    fn turns_are_in_an_order_that_the_seed_gives() {
        let rounds = |seed| -> Vec<_> { (0..200).map(|round| order(4, seed, round)).collect() };
        let first = rounds(1);
        assert_eq!(first, rounds(1));
        assert_ne!(first, rounds(2));
        for place in 0..4 {
            for subject in 0..4 {
                let there = first.iter().filter(|order| order[place] == subject).count();
                assert!((25..=75).contains(&there), "{subject} is {there} times at {place}");
            }
        }
        // Nobody has the same neighbour most of the time.
        let follows = |pair: &[usize]| (pair[0] + 1) % 4 == pair[1];
        let behind = first.iter().flat_map(|order| order.windows(2)).filter(|pair| follows(pair));
        let behind = behind.count();
        assert!((150..=250).contains(&behind), "{behind} of 600");
    }

    /// What hits both halves of a turn alike leaves the ratio alone.
    #[test]
    fn turns_are_compared_with_themselves() {
        let others: Vec<f64> = (1..=40).map(f64::from).collect();
        let ours: Vec<f64> = others.iter().map(|value| value * 1.5).collect();
        let estimate = paired(&ours, &others, 1);
        assert_eq!(estimate, Estimate { value: 1.5, interval: [1.5, 1.5] });
    }

    /// The interval has the true ratio in about 95 of 100 samples.
    #[test]
    fn the_interval_covers_what_is_true() {
        let mut random = StdRng::seed_from_u64(7);
        let mut noise = |scale: f64| 1.0 + scale * (random.random::<f64>() - 0.5);
        let covered = (0..40u64).filter(|seed| {
            let others: Vec<f64> = (0..40).map(|_| 100.0 * noise(0.2)).collect();
            let ours: Vec<f64> = (0..40).map(|_| 120.0 * noise(0.2)).collect();
            let Estimate { value, interval: [low, high] } = paired(&ours, &others, *seed);
            assert!(low <= value && value <= high, "{low} {value} {high}");
            low <= 1.2 && 1.2 <= high
        });
        let covered = covered.count();
        assert!((34..=40).contains(&covered), "{covered} of 40");
    }

    #[test]
    fn sums_bridge_turns_in_which_nothing_was_seen() {
        let ours = [(0.0, 5.0), (2.0, 20.0), (0.0, 5.0), (2.0, 10.0)];
        let others = [(1.0, 20.0), (1.0, 20.0), (1.0, 20.0), (1.0, 20.0)];
        let estimate = of_sums(&ours, &others, 1);
        assert_eq!(estimate.value, 2.0);
        assert!(estimate.interval[0] < 2.0 && estimate.interval[1] > 2.0, "{estimate:?}");
    }
}
