//! Is a sample what the weights say? Pearson's chi-square test at a fixed false-alarm rate.

/// A right implementation fails the test this often.
pub const FALSE_ALARM: f64 = 1e-9;

/// Where chi-square is exceeded with probability [`FALSE_ALARM`], for 1, 2, ... degrees of freedom.
const CRITICAL: [f64; 12] = [
    37.325, 41.447, 44.841, 47.879, 50.692, 53.345, 55.875, 58.308, 60.660, 62.945, 65.173, 67.349,
];

/// Fails unless `counts` may well be a sample of shares proportional to `weights`.
#[track_caller]
pub fn assert_shares(what: &str, counts: &[u64], weights: &[u32]) {
    let (statistic, critical) = chi_square(counts, weights);
    assert!(
        statistic < critical,
        "{what}: counts {counts:?} for weights {weights:?}: chi-square {statistic:.1}, which a \
         right choice exceeds {critical} with probability {FALSE_ALARM:e}"
    );
}

/// The statistic and what it should stay below.
fn chi_square(counts: &[u64], weights: &[u32]) -> (f64, f64) {
    assert_eq!(counts.len(), weights.len());
    let total = counts.iter().sum::<u64>() as f64;
    let weight: f64 = weights.iter().copied().map(f64::from).sum();
    let statistic = counts
        .iter()
        .zip(weights)
        .map(|(count, of)| {
            let expected = total * f64::from(*of) / weight;
            (*count as f64 - expected).powi(2) / expected
        })
        .sum();
    (statistic, CRITICAL[counts.len() - 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For an even number of degrees of freedom the tail has a closed form.
    #[test]
    fn critical_values() {
        assert!(CRITICAL.is_sorted());
        for half in 1..=6u32 {
            let x = CRITICAL[half as usize * 2 - 1] / 2.0;
            let mut term = 1.0;
            let mut sum = 1.0;
            for k in 1..half {
                term *= x / f64::from(k);
                sum += term;
            }
            let tail = (-x).exp() * sum;
            assert!((tail / FALSE_ALARM - 1.0).abs() < 1e-3, "{half}: {tail:e}");
        }
    }

    #[test]
    fn tells_right_from_wrong() {
        assert_shares("exact", &[1000, 2000, 3000], &[1, 2, 3]);
        let (statistic, critical) = chi_square(&[2000, 2000, 2000], &[1, 2, 3]);
        assert!(statistic > critical);
    }
}
