//! The choice of a backend, as arithmetic that both the kernel side and the host tests run.
//!
//! Weighted choice is Vose's alias method. One 32-bit random number times the number of rows gives
//! a slot (high half) and a uniform fraction (low half); the slot keeps the draw if the fraction
//! lies below its threshold, else the draw goes to the slot's alias. Weights are exact to 2^-32 and
//! the cost does not depend on the number of backends.

/// A random number for a connect, from its socket's cookie and a count that grows with each connect:
/// no two connects have the same pair, and SplitMix64's finaliser makes of such counters what passes
/// for random. It spares a helper call, which costs more than the arithmetic, and a socket that tries
/// again draws again.
#[inline(always)]
pub const fn random_of(cookie: u64, count: u64) -> u64 {
    let mut mixed = cookie ^ count.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A random number turned into a slot and a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// 0-based slot, below the number of rows.
    pub slot: u32,
    /// Uniform in [0, 2^32).
    pub fraction: u32,
}

/// Spreads `random` over `rows` slots. `rows` must not be 0.
#[inline(always)]
pub const fn draw(random: u32, rows: u32) -> Draw {
    let product = random as u64 * rows as u64;
    Draw { slot: (product >> 32) as u32, fraction: product as u32 }
}

impl Draw {
    /// The slot chosen, given the threshold and alias of [`Draw::slot`].
    #[inline(always)]
    pub const fn resolve(self, threshold: u32, alias: u32) -> u32 {
        if self.fraction < threshold { self.slot } else { alias }
    }
}

/// Power of two choices: whether the first of two candidates should get the connection, being the
/// less loaded one per unit of weight once the connection is added. Ties go to the first.
#[inline(always)]
pub const fn first_is_less_loaded(
    first_active: u64,
    first_weight: u16,
    second_active: u64,
    second_weight: u16,
) -> bool {
    (first_active + 1) * second_weight as u64 <= (second_active + 1) * first_weight as u64
}

/// A slot of an alias table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg(not(target_arch = "bpf"))]
pub struct Slot {
    /// See [`Draw::resolve`].
    pub threshold: u32,
    /// See [`Draw::resolve`].
    pub alias: u32,
}

/// Builds the alias table for `weights`, in O(n) and in integers. The result has a slot for each
/// weight, in the same order. Weights must not be 0.
#[cfg(not(target_arch = "bpf"))]
pub fn alias_table(weights: &[u16]) -> Vec<Slot> {
    let rows = weights.len() as u64;
    let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    // Each slot holds `total` units; a backend brings weight * rows of them, so the sums agree and
    // no rounding happens before the last division.
    let mut units: Vec<u64> = weights.iter().map(|w| u64::from(*w) * rows).collect();
    let mut table: Vec<Slot> =
        (0u32..).zip(weights).map(|(slot, _)| Slot { threshold: u32::MAX, alias: slot }).collect();

    let (mut small, mut large): (Vec<usize>, Vec<usize>) =
        (0..weights.len()).partition(|slot| units[*slot] < total);
    while let (Some(poor), Some(rich)) = (small.pop(), large.last().copied()) {
        let threshold = (u128::from(units[poor]) << 32) / u128::from(total);
        table[poor] = Slot {
            threshold: u32::try_from(threshold).unwrap_or(u32::MAX),
            alias: u32::try_from(rich).unwrap_or(u32::MAX),
        };
        units[rich] -= total - units[poor];
        if units[rich] < total {
            large.pop();
            small.push(rich);
        }
    }
    table
}

/// The share of draws that each slot of `table` receives, computed from the table itself.
#[cfg(not(target_arch = "bpf"))]
pub fn shares(table: &[Slot]) -> Vec<f64> {
    let mut shares = vec![0.0; table.len()];
    let slot_share = 1.0 / table.len() as f64;
    for (slot, Slot { threshold, alias }) in table.iter().enumerate() {
        let kept = f64::from(*threshold) / 2f64.powi(32);
        shares[slot] += slot_share * kept;
        shares[*alias as usize] += slot_share * (1.0 - kept);
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn choose(table: &[Slot], random: u32) -> usize {
        let draw = draw(random, table.len() as u32);
        let Slot { threshold, alias } = table[draw.slot as usize];
        draw.resolve(threshold, alias) as usize
    }

    #[test]
    fn one_backend_gets_everything() {
        let table = alias_table(&[7]);
        for random in [0, 1, u32::MAX / 2, u32::MAX] {
            assert_eq!(choose(&table, random), 0);
        }
    }

    #[test]
    fn equal_weights_need_no_alias() {
        let table = alias_table(&[3; 5]);
        for (slot, Slot { threshold, alias }) in table.iter().enumerate() {
            assert_eq!((*threshold, *alias as usize), (u32::MAX, slot));
        }
    }

    /// Walks 2^22 evenly spaced random numbers, so the count of each backend is its share to within
    /// one draw per slot boundary: a deterministic test with a bound that follows from the method.
    #[test]
    fn counts_follow_the_weights() {
        const DRAWS: u32 = 1 << 22;
        for weights in [&[1u16, 2, 3, 4][..], &[1, 65535], &[10, 10, 1, 1, 1], &[5, 4, 3, 2, 1, 1]]
        {
            let table = alias_table(weights);
            let mut counts = vec![0u64; weights.len()];
            for step in 0..DRAWS {
                counts[choose(&table, step << 10)] += 1;
            }
            let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            for (count, weight) in counts.iter().zip(weights) {
                let expect = f64::from(DRAWS) * f64::from(*weight) / total as f64;
                let off = (*count as f64 - expect).abs();
                assert!(off <= 2.0 * weights.len() as f64, "{weights:?}: {counts:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn shares_are_the_weights(weights in prop::collection::vec(1u16.., 1..200)) {
            let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
            for (share, weight) in shares(&alias_table(&weights)).iter().zip(&weights) {
                prop_assert!((share - f64::from(*weight) / total).abs() < 1e-8);
            }
        }

        #[test]
        fn every_draw_lands_on_a_row(weights in prop::collection::vec(1u16.., 1..300), random: u32) {
            prop_assert!(choose(&alias_table(&weights), random) < weights.len());
        }
    }

    /// Cookies come in sequence, counts grow by one, and a client may take every n-th of either:
    /// the draws of 10 equal backends must not notice. Chi-square with 9 degrees of freedom stays
    /// below 60 but in one of 10^9 cases, were the draws random; they are the same in every run.
    #[test]
    fn sequences_of_cookies_draw_evenly() {
        const DRAWS: u64 = 100_000;
        for (cookie_step, count_step) in
            [(1, 0), (0, 1), (1, 1), (2, 1), (89, 0), (4096, 1), (1, 144)]
        {
            for half in [0, 32] {
                let mut counts = [0u32; 10];
                for n in 0..DRAWS {
                    let random = random_of(1_000_000 + n * cookie_step, n * count_step);
                    counts[draw((random >> half) as u32, 10).slot as usize] += 1;
                }
                let mean = DRAWS as f64 / 10.0;
                let square: f64 =
                    counts.iter().map(|c| (f64::from(*c) - mean).powi(2) / mean).sum();
                assert!(square < 60.0, "steps {cookie_step}, {count_step}: {counts:?}");
            }
        }
    }

    #[test]
    fn two_choices_compare_load_per_weight() {
        assert!(first_is_less_loaded(0, 1, 0, 1));
        assert!(first_is_less_loaded(3, 1, 4, 1));
        assert!(!first_is_less_loaded(4, 1, 3, 1));
        // 10 sockets on weight 10 is less than 2 on weight 1.
        assert!(first_is_less_loaded(10, 10, 2, 1));
        assert!(!first_is_less_loaded(2, 1, 10, 10));
    }

    /// Power of two choices must spread better than plain random choice: 10,000 long connections to
    /// 100 equal backends stay within a few of the mean (theory: log log n), where random choice is
    /// tens away. The generator is a fixed 64-bit LCG, so the test is the same every time.
    #[test]
    fn two_choices_balance() {
        let table = alias_table(&[1; 100]);
        let mut active = [0u64; 100];
        let mut state = 42u64;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 32) as u32
        };
        for _ in 0..10_000 {
            let (a, b) = (choose(&table, random()), choose(&table, random()));
            let chosen = if first_is_less_loaded(active[a], 1, active[b], 1) { a } else { b };
            active[chosen] += 1;
        }
        let max = active.iter().max().copied().unwrap_or_default();
        assert!(max <= 105, "busiest backend has {max} of a mean of 100");
    }
}
