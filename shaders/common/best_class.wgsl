// The best class of an anchor, for decode shaders: they declare CLASSES and `class_at(base, c)`, the number of class c of
// the anchor at `base`. Of equal numbers the first counts; NaN never does. Four at a time, so that the loads overlap.
struct BestClass {
    value: f32,
    class_id: u32,
}

// For the unrolled copies.
const u: u32 = 0u;

fn best_class(base: u32) -> BestClass {
    var best = BestClass(-3.0e38, 0u);
    for (var c = 0u; c + 4u <= CLASSES; c += 4u) {
        //unroll u 4
        let v_u = class_at(base, c + u);
        //end
        //unroll u 4
        if (v_u > best.value) {
            best = BestClass(v_u, c + u);
        }
        //end
    }
    for (var c = CLASSES & ~3u; c < CLASSES; c++) {
        let v = class_at(base, c);
        if (v > best.value) {
            best = BestClass(v, c);
        }
    }
    return best;
}
