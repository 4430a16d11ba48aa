//! Two ordered maps side by side. What changed among many is found so at little more than the price
//! of looking at each once: no look-ups.

use std::cmp::Ordering;
use std::iter::{Peekable, from_fn};

/// What two maps have under one key.
type Pair<A, B> = (Option<A>, Option<B>);

/// Every key of either map once, in order: the entry of the first map, the entry of the second. Both
/// must be sorted by key, as a `BTreeMap` is.
pub(crate) fn side_by_side<'a, 'b, K: Ord + 'a + 'b, A, B>(
    first: impl IntoIterator<Item = (&'a K, A)>,
    second: impl IntoIterator<Item = (&'b K, B)>,
) -> impl Iterator<Item = Pair<(&'a K, A), (&'b K, B)>> {
    let (mut first, mut second) = (first.into_iter().peekable(), second.into_iter().peekable());
    from_fn(move || {
        let order = match (first.peek(), second.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((first, _)), Some((second, _))) => first.cmp(second),
        };
        Some((take(&mut first, order.is_le()), take(&mut second, order.is_ge())))
    })
}

fn take<I: Iterator>(items: &mut Peekable<I>, wanted: bool) -> Option<I::Item> {
    if wanted { items.next() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn every_key_once() {
        let first = BTreeMap::from([(1, 'a'), (2, 'b'), (4, 'c')]);
        let second = BTreeMap::from([(0, "x"), (2, "y"), (4, "z"), (5, "w")]);
        let pairs: Vec<_> = side_by_side(&first, &second).collect();
        let expected = [
            (None, Some((&0, &"x"))),
            (Some((&1, &'a')), None),
            (Some((&2, &'b')), Some((&2, &"y"))),
            (Some((&4, &'c')), Some((&4, &"z"))),
            (None, Some((&5, &"w"))),
        ];
        assert_eq!(pairs, expected);
    }
}
