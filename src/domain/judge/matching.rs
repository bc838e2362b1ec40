//! Whether enough different people are left to meet every step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::domain::names::{PersonName, StepName};

/// Finds out whether different people can meet all steps: each step given by its name, how many it still needs, and who may answer it.
///
/// A matching in a bipartite graph, by augmenting paths (decisions.md 24); nobody in `taken` counts.
///
/// # Errors
/// The first step that cannot be met beside those before it.
pub fn matchable(
    steps: &[(StepName, u32, &BTreeSet<PersonName>)],
    taken: &BTreeSet<PersonName>,
) -> Result<(), StepName> {
    let mut chosen: BTreeMap<&PersonName, usize> = BTreeMap::new();
    for (place, (name, need, eligible)) in steps.iter().enumerate() {
        // Cheaper than to fail after many paths, and `need` may be any number.
        let free = eligible.iter().filter(|person| !taken.contains(*person)).count();
        if usize::try_from(*need).map_or(true, |need| need > free) {
            return Err(name.clone());
        }
        for _ in 0..*need {
            if !augment(steps, taken, &mut chosen, place) {
                return Err(name.clone());
            }
        }
    }
    Ok(())
}

/// Chooses one more person for a step, by moving people between steps where that is needed.
fn augment<'p>(
    steps: &[(StepName, u32, &'p BTreeSet<PersonName>)],
    taken: &BTreeSet<PersonName>,
    chosen: &mut BTreeMap<&'p PersonName, usize>,
    start: usize,
) -> bool {
    // From which step a step was reached, and whom the former would take over from the latter.
    let mut reached: BTreeMap<usize, Option<(usize, &'p PersonName)>> = BTreeMap::from([(start, None)]);
    let mut queue = VecDeque::from([start]);
    while let Some(place) = queue.pop_front() {
        let Some((_, _, eligible)) = steps.get(place) else { continue };
        let eligible: &'p BTreeSet<PersonName> = eligible;
        for person in eligible.iter().filter(|person| !taken.contains(*person)) {
            match chosen.get(person) {
                None => {
                    chosen.insert(person, place);
                    let mut at = place;
                    while let Some(Some((before, moved))) = reached.get(&at) {
                        chosen.insert(moved, *before);
                        at = *before;
                    }
                    return true;
                }
                Some(other) if !reached.contains_key(other) => {
                    reached.insert(*other, Some((place, person)));
                    queue.push_back(*other);
                }
                Some(_) => {}
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn set(names: &str) -> BTreeSet<PersonName> {
        names.split_whitespace().map(|name| PersonName::new(name).unwrap()).collect()
    }

    fn matched(steps: &[(u32, &str)], taken: &str) -> Option<String> {
        let sets: Vec<_> = steps.iter().map(|(_, names)| set(names)).collect();
        let steps: Vec<_> = steps
            .iter()
            .zip(&sets)
            .enumerate()
            .map(|(i, ((need, _), set))| (StepName::new(format!("s{i}")).unwrap(), *need, set))
            .collect();
        matchable(&steps, &set(taken)).err().map(|name| name.to_string())
    }

    #[test]
    fn one_person_meets_one_step() {
        assert_eq!(matched(&[], ""), None);
        assert_eq!(matched(&[(1, "a b"), (1, "a")], ""), None);
        assert_eq!(matched(&[(1, "a"), (1, "a")], "").as_deref(), Some("s1"));
        assert_eq!(matched(&[(2, "a b"), (1, "b c"), (1, "c d")], ""), None);
        assert_eq!(matched(&[(1, "a b"), (1, "b c"), (1, "c a"), (1, "a b c")], "").as_deref(), Some("s3"));
        assert_eq!(matched(&[(1, "a b"), (1, "a")], "a").as_deref(), Some("s1"));
        assert_eq!(matched(&[(u32::MAX, "a")], "").as_deref(), Some("s0"));
        assert_eq!(matched(&[(0, ""), (1, "a")], ""), None);
    }

    /// Tries every way.
    fn by_force(slots: &[usize], sets: &[BTreeSet<PersonName>], used: &mut BTreeSet<PersonName>) -> bool {
        let Some((first, rest)) = slots.split_first() else { return true };
        for person in &sets[*first] {
            if used.insert(person.clone()) {
                if by_force(rest, sets, used) {
                    return true;
                }
                used.remove(person);
            }
        }
        false
    }

    proptest! {
        #[test]
        fn it_agrees_with_trying_everything(
            steps in prop::collection::vec((0u32..3, prop::collection::btree_set("[a-f]", 0..4)), 0..4),
            taken in prop::collection::btree_set("[a-f]", 0..2),
        ) {
            let names = |set: &BTreeSet<String>| set.iter().map(|n| PersonName::new(n).unwrap()).collect::<BTreeSet<_>>();
            let sets: Vec<_> = steps.iter().map(|(_, set)| names(set)).collect();
            let given: Vec<_> = steps.iter().zip(&sets).map(|((need, _), set)| (StepName::new("s").unwrap(), *need, set)).collect();
            let slots: Vec<usize> = steps.iter().enumerate().flat_map(|(i, (need, _))| vec![i; *need as usize]).collect();
            let mut used = names(&taken);
            prop_assert_eq!(matchable(&given, &names(&taken)).is_ok(), by_force(&slots, &sets, &mut used));
        }
    }
}
