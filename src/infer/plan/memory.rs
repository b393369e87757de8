//! One arena for all buffers of a plan, by liveness: buffers that are never live together share memory.

use super::step::{BufferKind, Plan};

/// Where each buffer of a plan lies in the arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArenaPlan {
    /// Words of four bytes: an f32, or four bytes.
    pub len_words: usize,
    /// Offset and length of each buffer, in words.
    pub spans: Vec<(usize, usize)>,
}

/// Buffers start at multiples of this many words: a 64-byte cache line.
const ALIGNMENT: usize = 16;

/// Inputs and constants live all the time; activations from their first to their last step. Largest first, each at the
/// lowest offset where it meets no other that is live with it.
pub fn plan_arena(plan: &Plan) -> ArenaPlan {
    let always = (0, usize::MAX);
    let lives: Vec<(usize, usize)> = plan
        .buffers
        .iter()
        .map(|b| match b.kind {
            BufferKind::Activation { first, last } => (first, last),
            BufferKind::Input | BufferKind::Constant(_) => always,
        })
        .collect();
    let mut by_size: Vec<usize> = (0..plan.buffers.len()).collect();
    by_size.sort_by_key(|&i| (lives[i] != always, std::cmp::Reverse(plan.buffers[i].len_words()), i));
    let mut spans = vec![(0, 0); plan.buffers.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut len_words = 0;
    for i in by_size {
        let length = plan.buffers[i].len_words();
        let mut neighbours: Vec<(usize, usize)> = placed
            .iter()
            .filter(|&&j| lives[j].0 <= lives[i].1 && lives[i].0 <= lives[j].1)
            .map(|&j| spans[j])
            .collect();
        neighbours.sort_unstable();
        let mut offset: usize = 0;
        for (start, count) in neighbours {
            if offset + length <= start {
                break;
            }
            offset = offset.max((start + count).next_multiple_of(ALIGNMENT));
        }
        spans[i] = (offset, length);
        len_words = len_words.max(offset + length);
        placed.push(i);
    }
    ArenaPlan { len_words, spans }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::plan::step::{Buffer, Element};

    fn activation(len_elements: usize, first: usize, last: usize) -> Buffer {
        let kind = BufferKind::Activation { first, last };
        Buffer { name: String::new(), len_elements, element: Element::F32, kind }
    }

    #[test]
    fn buffers_share_only_when_they_never_meet() {
        let buffers = vec![
            Buffer { name: "in".into(), len_elements: 48, element: Element::F32, kind: BufferKind::Input },
            Buffer { element: Element::Byte, ..activation(397, 0, 1) },
            activation(64, 1, 2),
            activation(100, 2, 3),
            activation(7, 0, 3),
        ];
        let plan = Plan { buffers, ..Plan::default() };
        let arena = plan_arena(&plan);
        for (i, a) in plan.buffers.iter().enumerate() {
            for (j, b) in plan.buffers.iter().enumerate().skip(i + 1) {
                let lives = |k: &Buffer| match k.kind {
                    BufferKind::Activation { first, last } => (first, last),
                    _ => (0, usize::MAX),
                };
                let ((a0, a1), (b0, b1)) = (lives(a), lives(b));
                let ((ao, al), (bo, bl)) = (arena.spans[i], arena.spans[j]);
                assert!(!(a0 <= b1 && b0 <= a1) || ao + al <= bo || bo + bl <= ao, "{i} and {j} overlap");
            }
        }
        assert_eq!(arena.spans[1], (arena.spans[3].0, 100), "dead memory is used again, four bytes to a word");
        assert!(arena.len_words < 48 + 100 + 64 + 100 + 7);
    }
}
