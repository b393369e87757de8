//! Which form of a step is the fastest, measured on this machine instead of by rule (`--tune`).
//!
//! Results stay in `tuning.json` in the user's cache folder for `eyas`: one entry a step, by its kernel, the places of its
//! views, instruction set, threads and processor, so that another network of the same layers need not measure again. A file
//! that cannot be read or written costs the measurement, nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcetera::BaseStrategy;

use super::Isa;
use crate::infer::kernel::FastKernel;
use crate::infer::plan::step::Step;
use crate::infer::plan::view::View;

/// All measurements of a session take no longer than this, and one form of a step no longer than the second.
const BUDGET: Duration = Duration::from_secs(3);
const FORM_BUDGET: Duration = Duration::from_millis(25);
/// Runs of each form, in turns.
const ROUNDS: usize = 5;
/// The form of the rule stays unless another is faster by this: less is noise.
const GAIN: f64 = 0.97;
/// A file that is larger is none of ours.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Labels of the fastest forms by step, as measured before and now.
#[derive(Debug, Default)]
pub struct Tuning {
    path: Option<PathBuf>,
    /// Program, processor, instruction set and threads: what the key of each step begins with.
    machine: String,
    known: BTreeMap<String, String>,
    is_changed: bool,
    spent: Duration,
    /// What was found, for people.
    pub notes: Vec<String>,
}

impl Tuning {
    /// What the user's cache folder holds.
    pub fn of_user(isa: Isa, threads: usize) -> Tuning {
        let known = match etcetera::base_strategy::choose_native_strategy() {
            Ok(strategy) => Tuning::at(&strategy.cache_dir().join("eyas").join("tuning.json")),
            Err(why) => {
                log::warn!("measurements cannot be kept: {why}");
                Tuning::default()
            }
        };
        // Names the instruction set, too.
        let processor = super::processor_name(isa);
        Tuning { machine: format!("{} {processor} {threads}", env!("CARGO_PKG_VERSION")), ..known }
    }

    /// What a file holds; nothing if it is not there.
    pub fn at(path: &Path) -> Tuning {
        let read = || -> Result<BTreeMap<String, String>, String> {
            match std::fs::metadata(path) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
                Err(e) => return Err(e.to_string()),
                Ok(meta) if meta.len() > FILE_BYTES_MAX => return Err(format!("it has {} bytes", meta.len())),
                Ok(_) => {}
            }
            let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
            serde_json::from_str(&text).map_err(|e| e.to_string())
        };
        let known = read().unwrap_or_else(|why| {
            log::warn!("{}: measuring anew: {why}", path.display());
            BTreeMap::new()
        });
        Tuning { path: Some(path.to_path_buf()), known, ..Tuning::default() }
    }

    /// Picks one of the forms of a step, the first of which is that of the rule: the one measured before, or the fastest now.
    /// `time` runs a form once and says how long it took. `None` only without forms.
    pub fn choose(
        &mut self,
        step: &Step,
        mut forms: Vec<Box<dyn FastKernel>>,
        time: impl Fn(&dyn FastKernel) -> Duration,
    ) -> Option<Box<dyn FastKernel>> {
        if forms.len() < 2 {
            return forms.pop();
        }
        let (key, node) = (self.key_of(step), &step.node);
        if let Some(at) = self.known.get(&key).and_then(|known| forms.iter().position(|f| f.label() == *known)) {
            return Some(forms.swap_remove(at));
        }
        if self.spent >= BUDGET {
            self.notes.push(format!("'{node}' was not measured: the time for it is spent"));
            return Some(forms.swap_remove(0));
        }
        let mut best = vec![f64::INFINITY; forms.len()];
        let mut spent = vec![Duration::ZERO; forms.len()];
        for round in 0..=ROUNDS {
            for (i, form) in forms.iter().enumerate() {
                if spent[i] > FORM_BUDGET && round > 1 {
                    continue;
                }
                let took = time(&**form);
                spent[i] += took;
                // The first run warms the caches.
                if round > 0 {
                    best[i] = best[i].min(took.as_secs_f64());
                }
            }
        }
        self.spent += spent.iter().sum::<Duration>();
        let fastest = (0..forms.len()).min_by(|&a, &b| best[a].total_cmp(&best[b])).unwrap_or(0);
        let chosen = if best[fastest] < GAIN * best[0] { fastest } else { 0 };
        let times = forms.iter().zip(&best).map(|(f, s)| format!("{} {:.4} ms", f.label(), s * 1e3));
        self.notes.push(format!("'{node}' runs {}: {}", forms[chosen].label(), times.collect::<Vec<_>>().join(", ")));
        self.known.insert(key, forms[chosen].label());
        self.is_changed = true;
        Some(forms.swap_remove(chosen))
    }

    /// What decides how fast the forms of a step are, as text.
    fn key_of(&self, step: &Step) -> String {
        let places = |views: &[View]| views.iter().map(|v| format!("{:?}{:?}", v.shape, v.strides)).collect::<String>();
        format!("{} {} {} {}", self.machine, step.kernel.label(), places(&step.reads), places(&step.writes))
    }

    /// Keeps what was measured. What other programs measured meanwhile stays.
    pub fn save(&mut self) {
        let Some(path) = self.path.clone().filter(|_| self.is_changed) else { return };
        let mut all = Tuning::at(&path).known;
        all.append(&mut self.known.clone());
        let write = || -> Result<(), String> {
            let text = serde_json::to_string_pretty(&all).map_err(|e| e.to_string())?;
            let folder = path.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(folder).map_err(|e| e.to_string())?;
            // Through a file of its own, so that nobody reads half of it.
            let partial = path.with_extension(format!("{}.part", std::process::id()));
            let written = std::fs::write(&partial, text).and_then(|()| std::fs::rename(&partial, &path));
            written.map_err(|e| {
                // It may not be there.
                std::fs::remove_file(&partial).ok();
                e.to_string()
            })
        };
        match write() {
            Ok(()) => self.is_changed = false,
            Err(why) => log::warn!("{}: measurements cannot be kept: {why}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{Memory, testing};
    use crate::infer::plan::view::BufferId;

    /// Steps differ by the length of what they read.
    fn step(len: usize) -> Step {
        let view = View::row_major(BufferId(0), &[len]);
        Step { node: "node".into(), ..testing::step(vec![view.clone()], vec![view]) }
    }

    #[derive(Debug)]
    struct Named(&'static str);

    impl FastKernel for Named {
        fn label(&self) -> String {
            self.0.to_string()
        }

        fn run(&self, _: &Step, _: &Memory) {}
    }

    fn forms() -> Vec<Box<dyn FastKernel>> {
        vec![Box::new(Named("slow")), Box::new(Named("fast"))]
    }

    fn time(form: &dyn FastKernel) -> Duration {
        Duration::from_millis(if form.label() == "slow" { 4 } else { 1 })
    }

    #[test]
    fn the_fastest_form_is_kept_and_found_again() {
        let folder = std::env::temp_dir().join(format!("eyas-tuning-{}", std::process::id()));
        let path = folder.join("deep").join("tuning.json");
        let mut tuning = Tuning::at(&path);
        let chosen = tuning.choose(&step(1), forms(), time).expect("a form");
        assert_eq!(chosen.label(), "fast");
        assert!(tuning.notes[0].contains("'node' runs fast: slow "), "{:?}", tuning.notes);
        tuning.save();

        let mut again = Tuning::at(&path);
        let measured = |_: &dyn FastKernel| -> Duration { panic!("measured again") };
        assert_eq!(again.choose(&step(1), forms(), measured).expect("a form").label(), "fast");
        // A form that is no longer there.
        let others = || vec![forms().remove(0), forms().remove(0)];
        assert_eq!(again.choose(&step(1), others(), time).expect("a form").label(), "slow");
        assert_eq!(again.choose(&step(2), vec![], time).map(|f| f.label()), None);

        std::fs::write(&path, "{ broken").expect("writes");
        let mut broken = Tuning::at(&path);
        assert!(broken.known.is_empty());
        broken.choose(&step(3), forms(), time);
        broken.save();
        assert_eq!(Tuning::at(&path).known.len(), 1);
        std::fs::remove_dir_all(&folder).expect("removes");
        // A folder that cannot be made.
        let mut nowhere = Tuning::at(Path::new("/dev/null/eyas/tuning.json"));
        nowhere.choose(&step(4), forms(), time);
        nowhere.save();
    }

    #[test]
    fn a_form_must_be_clearly_faster() {
        let choose = |second_us: u64| {
            let time =
                |form: &dyn FastKernel| Duration::from_micros(if form.label() == "slow" { 4000 } else { second_us });
            Tuning::default().choose(&step(5), forms(), time).expect("a form").label()
        };
        assert_eq!((choose(3900), choose(3800)), ("slow".to_string(), "fast".to_string()));
    }

    #[test]
    fn measuring_ends() {
        let mut tuning = Tuning { spent: BUDGET, ..Tuning::default() };
        let measured = |_: &dyn FastKernel| -> Duration { panic!("measured") };
        assert_eq!(tuning.choose(&step(6), forms(), measured).expect("a form").label(), "slow");
        assert!(tuning.notes[0].contains("was not measured"));
    }
}
