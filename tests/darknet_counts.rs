//! The arithmetic of layers against public networks: cfgs of their structure, written here, must take exactly as many
//! floats as the published weights files hold, and end in maps of the published sizes.

use std::fmt::Write as _;

use eyas::infer::import::ImportOptions;
use eyas::infer::import::darknet::weights_floats;

/// A cfg that is being written.
struct Cfg {
    text: String,
    activation: &'static str,
    layers: i64,
}

impl Cfg {
    fn new(side: usize, activation: &'static str) -> Cfg {
        Cfg { text: format!("[net]\nwidth={side}\nheight={side}\nchannels=3\n"), activation, layers: 0 }
    }

    fn section(&mut self, kind: &str, keys: &str) -> &mut Cfg {
        let _ = writeln!(self.text, "[{kind}]\n{}", keys.replace(' ', "\n"));
        self.layers += 1;
        self
    }

    /// Convolution with batch-norm, `size` × `size`, keeping the size or halving it.
    fn conv(&mut self, filters: usize, size: usize, stride: usize) -> &mut Cfg {
        let activation = self.activation;
        self.section(
            "convolutional",
            &format!("batch_normalize=1 filters={filters} size={size} stride={stride} pad=1 activation={activation}"),
        )
    }

    fn convs(&mut self, all: &[(usize, usize)]) -> &mut Cfg {
        all.iter().fold(self, |cfg, &(filters, size)| cfg.conv(filters, size, 1))
    }

    fn last(&mut self, filters: usize) -> &mut Cfg {
        self.section("convolutional", &format!("filters={filters} size=1 stride=1 pad=1 activation=linear"))
    }

    fn pool(&mut self, size: usize, stride: usize) -> &mut Cfg {
        self.section("maxpool", &format!("size={size} stride={stride}"))
    }

    fn route(&mut self, layers: &str) -> &mut Cfg {
        self.section("route", &format!("layers={layers}"))
    }

    fn yolo(&mut self, mask: &str) -> &mut Cfg {
        let anchors = (1..=9).map(|n| format!("{n},{n}")).collect::<Vec<_>>().join(",");
        self.section("yolo", &format!("mask={mask} anchors={anchors} num=9 classes=80"))
    }

    fn region(&mut self, classes: usize) -> &mut Cfg {
        self.last(5 * (5 + classes));
        self.section("region", &format!("anchors=1,1,2,2,3,3,4,4,5,5 num=5 softmax=1 classes={classes}"))
    }

    /// `1×1` to half the channels, `3×3` back, and the sum with what came in.
    fn residual(&mut self, inner: usize, outer: usize) -> &mut Cfg {
        self.conv(inner, 1, 1).conv(outer, 3, 1).section("shortcut", "from=-3 activation=linear")
    }

    fn floats(&self) -> usize {
        weights_floats(&self.text, "test", &ImportOptions::default()).expect("the cfg is understood")
    }

    /// Number of the layer that comes next.
    fn next(&self) -> i64 {
        self.layers
    }
}

/// Published name, layers and floats.
#[track_caller]
fn check(name: &str, cfg: &Cfg, layers: i64, floats: usize) {
    assert_eq!((cfg.next(), cfg.floats()), (layers, floats), "{name}");
}

#[test]
fn version_1() {
    let mut cfg = Cfg::new(448, "leaky");
    for filters in [16, 32, 64, 128, 256, 512] {
        cfg.conv(filters, 3, 1).pool(2, 2);
    }
    cfg.conv(1024, 3, 1).conv(256, 3, 1).section("connected", "output=1470 activation=linear");
    cfg.section("detection", "classes=20 coords=4 side=7 num=2 sqrt=1");
    check("yolov1-tiny", &cfg, 16, 27_099_950);

    let mut cfg = Cfg::new(448, "leaky");
    cfg.conv(64, 7, 2).pool(2, 2).conv(192, 3, 1).pool(2, 2);
    cfg.convs(&[(128, 1), (256, 3), (256, 1), (512, 3)]).pool(2, 2);
    cfg.convs(&[(256, 1), (512, 3)].repeat(4)).convs(&[(512, 1), (1024, 3)]).pool(2, 2);
    cfg.convs(&[(512, 1), (1024, 3)].repeat(2)).conv(1024, 3, 1).conv(1024, 3, 2);
    cfg.convs(&[(1024, 3), (1024, 3)]).section("local", "size=3 stride=1 pad=1 filters=256 activation=leaky");
    cfg.section("dropout", "probability=.5").section("connected", "output=1715 activation=linear");
    cfg.section("detection", "classes=20 coords=4 side=7 num=3 sqrt=1");
    check("yolov1", &cfg, 32, 197_328_243);
}

fn darknet19(cfg: &mut Cfg) {
    cfg.conv(32, 3, 1).pool(2, 2).conv(64, 3, 1).pool(2, 2);
    cfg.convs(&[(128, 3), (64, 1), (128, 3)]).pool(2, 2).convs(&[(256, 3), (128, 1), (256, 3)]).pool(2, 2);
    cfg.convs(&[(512, 3), (256, 1), (512, 3), (256, 1), (512, 3)]).pool(2, 2);
    cfg.convs(&[(1024, 3), (512, 1), (1024, 3), (512, 1), (1024, 3)]);
}

#[test]
fn version_2() {
    let tiny = |last: usize, classes: usize| {
        let mut cfg = Cfg::new(416, "leaky");
        for filters in [16, 32, 64, 128, 256] {
            cfg.conv(filters, 3, 1).pool(2, 2);
        }
        cfg.conv(512, 3, 1).pool(2, 1).conv(1024, 3, 1).conv(last, 3, 1).region(classes);
        cfg
    };
    check("yolov2-tiny-voc", &tiny(1024, 20), 16, 15_867_885);
    check("tiny-yolo", &tiny(1024, 80), 16, 16_175_385);
    check("yolov2-tiny", &tiny(512, 80), 16, 11_237_145);

    for (name, classes, floats) in [("yolov2-voc", 20, 50_676_061), ("yolov2", 80, 50_983_561)] {
        let mut cfg = Cfg::new(416, "leaky");
        darknet19(&mut cfg);
        cfg.convs(&[(1024, 3), (1024, 3)]).route("-9").conv(64, 1, 1).section("reorg", "stride=2");
        cfg.route("-1,-4").conv(1024, 3, 1).region(classes);
        check(name, &cfg, 32, floats);
    }
    let mut cfg = Cfg::new(224, "leaky");
    darknet19(&mut cfg);
    cfg.last(1000).section("avgpool", "").section("softmax", "groups=1");
    // The published cfg has a [cost] section more.
    cfg.section("cost", "type=sse");
    check("darknet19", &cfg, 27, 20_856_776);
}

#[test]
fn version_3() {
    let mut cfg = Cfg::new(416, "leaky");
    for filters in [16, 32, 64, 128, 256] {
        cfg.conv(filters, 3, 1).pool(2, 2);
    }
    cfg.conv(512, 3, 1).pool(2, 1).convs(&[(1024, 3), (256, 1), (512, 3)]).last(255).yolo("3,4,5");
    cfg.route("-4")
        .conv(128, 1, 1)
        .section("upsample", "stride=2")
        .route("-1,8")
        .conv(256, 3, 1)
        .last(255)
        .yolo("0,1,2");
    check("yolov3-tiny", &cfg, 24, 8_858_734);

    for spp in [false, true] {
        let mut cfg = Cfg::new(608, "leaky");
        cfg.conv(32, 3, 1);
        for (filters, blocks) in [(64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)] {
            cfg.conv(filters, 3, 2);
            for _ in 0..blocks {
                cfg.residual(filters / 2, filters);
            }
        }
        cfg.convs(&[(512, 1), (1024, 3), (512, 1)]);
        if spp {
            cfg.pool(5, 1).route("-2").pool(9, 1).route("-4").pool(13, 1).route("-1,-3,-5,-6").conv(512, 1, 1);
        } else {
            cfg.convs(&[(1024, 3), (512, 1)]);
        }
        if spp {
            cfg.convs(&[(1024, 3), (512, 1)]);
        }
        cfg.conv(1024, 3, 1).last(255).yolo("6,7,8");
        for (filters, backbone, mask) in [(256, 61, "3,4,5"), (128, 36, "0,1,2")] {
            cfg.route("-4").conv(filters, 1, 1).section("upsample", "stride=2").route(&format!("-1,{backbone}"));
            cfg.convs(&[(filters, 1), (2 * filters, 3)].repeat(3)).last(255).yolo(mask);
        }
        let (name, layers, floats) = if spp { ("yolov3-spp", 114, 63_052_381) } else { ("yolov3", 107, 62_001_757) };
        check(name, &cfg, layers, floats);
    }
}

#[test]
fn version_4() {
    let mut cfg = Cfg::new(416, "leaky");
    cfg.conv(32, 3, 2).conv(64, 3, 2);
    for filters in [64, 128, 256] {
        cfg.conv(filters, 3, 1).section("route", "layers=-1 groups=2 group_id=1");
        cfg.convs(&[(filters / 2, 3), (filters / 2, 3)]).route("-1,-2").conv(filters, 1, 1).route("-6,-1").pool(2, 2);
    }
    cfg.convs(&[(512, 3), (256, 1), (512, 3)]).last(255).yolo("3,4,5");
    cfg.route("-4")
        .conv(128, 1, 1)
        .section("upsample", "stride=2")
        .route("-1,23")
        .conv(256, 3, 1)
        .last(255)
        .yolo("1,2,3");
    check("yolov4-tiny", &cfg, 38, 6_062_814);

    let mut cfg = Cfg::new(608, "mish");
    cfg.conv(32, 3, 1);
    // Ends of the stages, which the neck reads.
    let mut ends = Vec::new();
    for (filters, blocks) in [(64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)] {
        let half = if filters == 64 { 64 } else { filters / 2 };
        cfg.conv(filters, 3, 2).conv(half, 1, 1).route("-2").conv(half, 1, 1);
        for _ in 0..blocks {
            cfg.residual(filters / 2, half);
        }
        cfg.conv(half, 1, 1).route(&format!("-1,-{}", 3 * blocks + 4)).conv(filters, 1, 1);
        ends.push(cfg.next() - 1);
    }
    cfg.activation = "leaky";
    cfg.convs(&[(512, 1), (1024, 3), (512, 1)]);
    cfg.pool(5, 1).route("-2").pool(9, 1).route("-4").pool(13, 1).route("-1,-3,-5,-6");
    cfg.convs(&[(512, 1), (1024, 3), (512, 1)]);
    for (filters, end) in [(256, ends[3]), (128, ends[2])] {
        cfg.conv(filters, 1, 1).section("upsample", "stride=2").route(&end.to_string()).conv(filters, 1, 1);
        cfg.route("-1,-3").convs(&[(filters, 1), (2 * filters, 3), (filters, 1), (2 * filters, 3), (filters, 1)]);
    }
    cfg.conv(256, 3, 1).last(255).yolo("0,1,2");
    for (filters, back, mask) in [(256, -16, "3,4,5"), (512, -37, "6,7,8")] {
        cfg.route("-4").conv(filters, 3, 2).route(&format!("-1,{back}"));
        cfg.convs(&[(filters, 1), (2 * filters, 3)].repeat(3)).last(255).yolo(mask);
    }
    check("yolov4", &cfg, 162, 64_429_405);
}

#[test]
fn weights_of_other_sections() {
    // Per channel: 2 layers of 7 channels. Local: 5·6 positions of 3 filters over 7 channels.
    let text = "[net]\nwidth=6\nheight=5\nchannels=3\n[conv]\nfilters=7\n[conv]\nfilters=7\n[shortcut]\nfrom=0\n\
                weights_type=per_channel\n[local]\nfilters=3\nsize=3\npad=1\n[implicit]\nfilters=11\natoms=2\n";
    let floats = weights_floats(text, "test", &ImportOptions::default()).expect("the cfg is understood");
    assert_eq!(floats, (7 * 3 + 7) + (7 * 7 + 7) + 2 * 7 + (90 + 30 * 3 * 63) + 22);
}
