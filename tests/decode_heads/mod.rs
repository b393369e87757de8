//! One small head of each family, with views of its outputs, for the tests of the decode shaders.

mod table_cases;

use eyas::decode::head::grids;
use eyas::decode::heads::end_to_end::EndToEnd;
use eyas::decode::heads::fastestdet::FastestDet;
use eyas::decode::heads::gfl::{Gfl, GflScale};
use eyas::decode::heads::grid_anchor_free::GridAnchorFree;
use eyas::decode::heads::row_details::{KeypointColumns, RowDetails};
use eyas::decode::heads::yolo_anchors::{AnchorMap, Numbers, Sizes, YoloAnchors};
use eyas::decode::heads::yolo_v8::YoloV8;
use eyas::decode::heads::yunet::{YuNet, YuNetScale};
use eyas::decode::{Head, Suppression};
use eyas::infer::plan::{BufferId, View};

pub struct Case {
    pub name: String,
    pub head: Box<dyn Head>,
    /// Views of the outputs, each in a buffer of its own.
    pub views: Vec<View>,
}

/// The layouts in which a planner may leave an output: row-major, and the middle axis fastest with padding and an
/// offset.
fn views(shapes: &[Vec<usize>], channels_last: bool) -> Vec<View> {
    shapes
        .iter()
        .map(|s| {
            if !channels_last {
                return View::row_major(BufferId(0), s);
            }
            let mut view = View::channels_last(BufferId(0), s, 4);
            view.offset = 8;
            view
        })
        .collect()
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for channels_last in [false, true] {
        let mut add = |name: &str, head: Box<dyn Head>, shapes: &[Vec<usize>]| {
            let name = format!("{name}{}", if channels_last { " channels last" } else { "" });
            cases.push(Case { name, head, views: views(shapes, channels_last) });
        };
        let scales = grids(96, 64, &[8, 16, 32]);
        let cells: usize = scales.iter().map(|s| s.cells()).sum();
        add("yolox", Box::new(GridAnchorFree { classes: 13, scales: scales.clone() }), &[vec![1, cells, 18]]);
        for (objectness, anchors_last, classes) in [(false, true, 7), (true, false, 1)] {
            let columns = 4 + usize::from(objectness) + classes;
            let shape = if anchors_last { vec![1, columns, cells] } else { vec![1, cells, columns] };
            let details = RowDetails::default();
            let first_class = 4 + usize::from(objectness);
            let head = YoloV8 { output: 0, classes, first_class, anchors: cells, objectness, anchors_last, details };
            add(&format!("yolo_v8 {classes}"), Box::new(head), &[shape]);
        }
        // Box, objectness, ten numbers of keypoints, one class, in the second output.
        let keypoints = Some(KeypointColumns { first: 5, count: 5, numbers: 2 });
        let details = RowDetails { keypoints, ..RowDetails::default() };
        let face = YoloV8 {
            output: 1,
            classes: 1,
            first_class: 15,
            anchors: cells,
            objectness: true,
            anchors_last: false,
            details,
        };
        add("yolo_v5_face", Box::new(face), &[vec![1, 3, 4, 5], vec![1, cells, 16]]);
        let end_to_end = EndToEnd { output: 0, classes: 2, rows: 77, columns: 16, is_late: false, details };
        add("end_to_end", Box::new(end_to_end), &[vec![1, 77, 16]]);
        let details = RowDetails { angle: Some(6), ..RowDetails::default() };
        let end_to_end = EndToEnd { output: 0, classes: 2, rows: 77, columns: 7, is_late: false, details };
        add("end_to_end turned", Box::new(end_to_end), &[vec![1, 77, 7]]);
        let details = RowDetails { angle: Some(7), ..RowDetails::default() };
        let turned = YoloV8 {
            output: 0,
            classes: 3,
            first_class: 4,
            anchors: cells,
            objectness: false,
            anchors_last: true,
            details,
        };
        add("yolo_v8 turned", Box::new(turned), &[vec![1, 8, cells]]);
        let gfl = scales.iter().enumerate().map(|(n, &grid)| GflScale {
            grid,
            classes_at: (n, 0, 0),
            boxes_at: (3 + n, 0, 0),
        });
        let shapes: Vec<Vec<usize>> =
            [5, 32].iter().flat_map(|&c| scales.iter().map(move |s| vec![1, s.cells(), c])).collect();
        add("nanodet", Box::new(Gfl { classes: 5, bins: 8, point: 0.5, scales: gfl.collect() }), &shapes);
        let plus =
            scales.iter().map(|&grid| GflScale { grid, classes_at: (0, grid.first, 0), boxes_at: (0, grid.first, 3) });
        add(
            "nanodet_plus",
            Box::new(Gfl { classes: 3, bins: 8, point: 0.0, scales: plus.collect() }),
            &[vec![1, cells, 35]],
        );
        let fastest = FastestDet { classes: 6, cols: 7, rows: 5, input_px: [112, 80] };
        add("fastestdet", Box::new(fastest), &[vec![1, 11, 5, 7]]);
        let yunet = scales.iter().enumerate().map(|(n, &grid)| YuNetScale {
            grid,
            cls: n,
            obj: 3 + n,
            bbox: 6 + n,
            kps: 9 + n,
        });
        let shapes: Vec<Vec<usize>> =
            [1, 1, 4, 10].iter().flat_map(|&c| scales.iter().map(move |s| vec![1, s.cells(), c])).collect();
        add("yunet", Box::new(YuNet { scales: yunet.collect() }), &shapes);
        for (name, case, shapes) in table_cases::cases() {
            add(name, Box::new(case), &shapes);
        }
        for (activated, sizes) in [(false, Sizes::Exponential), (true, Sizes::Square), (false, Sizes::Square)] {
            let map = |output, cols, rows, first| AnchorMap {
                output,
                cols,
                rows,
                anchors_px: vec![[12.0, 18.5], [37.0, 49.0], [52.0, 30.0]],
                numbers: Numbers::Plain,
                scale_x_y: 1.05,
                activated,
                softmax: false,
                sizes,
                first,
            };
            let maps = vec![map(0, 3, 2, 0), map(1, 6, 4, 18)];
            let head = YoloAnchors { classes: 9, maps, input_px: [96, 64], suppression: Suppression::Iou };
            let name = format!("darknet {activated} {sizes:?}");
            add(&name, Box::new(head.clone()), &[vec![1, 42, 2, 3], vec![1, 42, 4, 6]]);
            add(&format!("{name} by anchor"), Box::new(head), &[vec![1, 3, 2, 3, 14], vec![1, 3, 4, 6, 14]]);
        }
        let maps = |numbers: usize| [vec![1, 2 * numbers, 2, 3], vec![1, 2 * numbers, 4, 6]];
        let cells = |numbers: usize| [vec![1, 2, 3, numbers], vec![1, 4, 6, numbers]];
        let rows = |numbers: usize| [vec![9, numbers], vec![1, 27, numbers]];
        let vector = |numbers: usize| [vec![1, 6 * numbers, 1, 1], vec![1, 24 * numbers, 1, 1]];
        let (coords, further) = (Numbers::Coords { coords: 4 }, Numbers::Coords { coords: 5 });
        let deviations = Numbers::Deviations { shift: -0.5 };
        let shared = |row| Numbers::SharedClasses { row };
        for (name, numbers, classes, softmax, sizes, shapes) in [
            ("region", coords, 2, true, Sizes::Exponential, maps(5 + 2)),
            ("region, logistic", further, 9, false, Sizes::Exponential, maps(6 + 9)),
            ("gaussian", deviations, 7, false, Sizes::Exponential, maps(9 + 7)),
            ("shared classes", shared(0), 6, false, Sizes::Square, cells(10 + 6)),
            ("shared classes, rows", shared(3), 5, false, Sizes::Square, rows(10 + 5)),
            ("vector", Numbers::Vector, 13, false, Sizes::Square, vector(10 + 13)),
            ("vector, softmax", Numbers::Vector, 2, true, Sizes::Linear, vector(10 + 2)),
        ] {
            let activated = !matches!(numbers, Numbers::Coords { .. });
            let map = |output, cols, rows, first| AnchorMap {
                output,
                cols,
                rows,
                anchors_px: vec![[12.0, 18.5], [37.0, 49.0]],
                numbers,
                scale_x_y: 1.25,
                activated,
                softmax,
                sizes,
                first,
            };
            let suppression = Suppression::Distance { beta: 0.6 };
            let maps = vec![map(0, 3, 2, 0), map(1, 6, 4, 12)];
            add(name, Box::new(YoloAnchors { classes, maps, input_px: [96, 64], suppression }), &shapes);
        }
    }
    cases
}
