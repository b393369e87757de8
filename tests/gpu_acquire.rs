//! The building site's shader against its twin.

#![cfg(feature = "gpu")]

use eyas::acquire::scenes::Scene;
use eyas::acquire::scenes::site::{Layout, SAMPLE_SEED, Site};
use eyas::gpu::{SceneRenderer, test_gpu};

#[test]
fn both_backends_render_the_same_scene() {
    let Some(gpu) = test_gpu() else { return };
    let renderer = SceneRenderer::new(gpu);
    for (width, height, seed, layout, n) in [
        (161, 121, SAMPLE_SEED, Layout::Sample, 0),
        (160, 120, SAMPLE_SEED, Layout::Sample, 12_345),
        (97, 63, 103, Layout::Varied, 3),
        (64, 80, 107, Layout::Varied, 0),
        (63, 65, 117, Layout::Varied, 99),
        (1, 1, 1, Layout::Varied, 0),
    ] {
        let scene = Site::new(width, height, seed, layout).expect("a scene");
        let (variant, rows) = scene.shader(n).expect("it has a shader");
        let drawn = renderer.render(&variant, &rows, [width, height]).expect("a picture");
        let expected = scene.render(n);
        assert_eq!((drawn.width, drawn.height), (width, height));
        let beyond = |levels: u8| {
            let pairs = drawn.bytes.iter().zip(&expected.bytes);
            pairs.filter(|(a, b)| a.abs_diff(**b) > levels).count() as f64 / drawn.bytes.len() as f64
        };
        println!(
            "{width}x{height} seed {seed}: beyond 0, 1, 2 levels {:.5} {:.5} {:.5}",
            beyond(0),
            beyond(1),
            beyond(2)
        );
        // A ray that just misses on one and just hits on the other.
        assert!(beyond(2) <= 0.0005, "{width}x{height} seed {seed} frame {n}: {}", beyond(2));
    }
}
