//! Packed weights, shared between plans that were made of the same weights: a network planned for several input sizes
//! keeps one copy.

use super::simd::Aligned;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Weights in the order that a kernel reads them.
#[derive(Debug)]
pub struct Packed {
    pub values: Aligned,
}

/// An order of packed weights: whose it is, and the numbers that decide it.
pub type Layout = (&'static str, [usize; 3]);

/// Address of the weights as the file has them, and their order.
type Key = (usize, Layout);

/// The weak reference to the weights keeps their address from being used again, not their values.
type Entry = (Weak<Vec<f32>>, Weak<Packed>);

static PACKED: Mutex<BTreeMap<Key, Entry>> = Mutex::new(BTreeMap::new());

/// The packed form of `source` in an order; `pack` makes it where no session has it.
pub fn packed(source: &Arc<Vec<f32>>, layout: Layout, pack: impl FnOnce() -> Aligned) -> Arc<Packed> {
    let key = (Arc::as_ptr(source) as usize, layout);
    let known = || PACKED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(shared) = known().get(&key).and_then(|(_, packed)| packed.upgrade()) {
        return shared;
    }
    // Not under the lock: other threads pack other weights meanwhile.
    let made = Arc::new(Packed { values: pack() });
    let mut known = known();
    known.retain(|_, (_, packed)| packed.strong_count() > 0);
    known.insert(key, (Arc::downgrade(source), Arc::downgrade(&made)));
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_weights_at_the_same_place_are_packed_once() {
        let source = Arc::new(vec![1.0, 2.0]);
        let make = |first: f32| {
            let mut values = Aligned::zeros(2);
            values[0] = first;
            values
        };
        let one = packed(&source, ("a", [4, 1, 2]), || make(1.0));
        let two = packed(&source, ("a", [4, 1, 2]), || make(9.0));
        assert!(Arc::ptr_eq(&one, &two) && two.values[0] == 1.0);
        assert_eq!(packed(&source, ("a", [8, 1, 2]), || make(3.0)).values[0], 3.0, "another order");
        assert_eq!(packed(&source, ("b", [4, 1, 2]), || make(7.0)).values[0], 7.0, "another one's order");
        drop((one, two));
        assert_eq!(packed(&source, ("a", [4, 1, 2]), || make(5.0)).values[0], 5.0, "nobody kept it");
    }
}
