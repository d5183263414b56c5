//! The method that all suites share: every round runs every case once, so that what the machine does
//! besides meets all of them alike, and ratios are taken within a round.

use crate::Result;
use crate::host::{MachineTime, children_and_self_cpu_seconds, spin_rate};
use crate::schema::{Better, Case, Curve, Method, Metric, Noise, Occupancy, Ratio, Suite};
use crate::stats::median;
use std::collections::BTreeMap;
use std::time::Instant;

/// Metrics by name, with unit and direction. What is not here is shown as a fact without unit.
const METRICS: &[(&str, &str, Better)] = &[
    ("gb_per_s", "GB/s", Better::Higher),
    ("seal_gb_per_s", "GB/s", Better::Higher),
    ("open_gb_per_s", "GB/s", Better::Higher),
    ("encode_gb_per_s", "GB/s", Better::Higher),
    ("decode_gb_per_s", "GB/s", Better::Higher),
    ("compress_mb_per_s", "MB/s", Better::Higher),
    ("decompress_mb_per_s", "MB/s", Better::Higher),
    ("mbit_per_s", "Mb/s", Better::Higher),
    ("of_bound", "", Better::Higher),
    ("wire_overhead", "", Better::Lower),
    ("path_loss", "", Better::Neither),
    ("queue_loss", "", Better::Neither),
    ("emulator_late_us", "us", Better::Neither),
    ("mframes_per_s", "Mframes/s", Better::Higher),
    ("kmessages_per_s", "k/s", Better::Higher),
    ("cpu_s_per_gb", "s/GB", Better::Lower),
    ("send_cpu_s_per_gb", "s/GB", Better::Lower),
    ("recv_cpu_s_per_gb", "s/GB", Better::Lower),
    ("p50_us", "us", Better::Lower),
    ("p99_us", "us", Better::Lower),
    ("p999_us", "us", Better::Lower),
    ("max_us", "us", Better::Neither),
    ("late_share", "", Better::Lower),
    ("ratio", "x", Better::Higher),
    ("resent_share", "", Better::Lower),
    ("drift", "", Better::Neither),
    ("rss_growth_mib", "MiB", Better::Neither),
];

/// Figures of one run of one case.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// By metric name.
    pub values: BTreeMap<&'static str, f64>,
    /// Latency curves; those of the last round are kept.
    pub curves: Vec<Curve>,
    /// How a figure developed within the run; that of the last round is kept.
    pub series: BTreeMap<String, Vec<f64>>,
    /// Occupancy of the windows, where it was sampled.
    pub occupancy: Option<Occupancy>,
    /// Stages of both sides, where they were asked for.
    pub sides: Vec<crate::peer::NodeReport>,
}

impl Figures {
    /// With one figure.
    pub fn of(name: &'static str, value: f64) -> Figures {
        Figures::default().and(name, value)
    }

    /// With one figure more; what is no number is left out.
    pub fn and(mut self, name: &'static str, value: f64) -> Figures {
        if value.is_finite() {
            self.values.insert(name, value);
        }
        self
    }
}

/// How a case ended that gave no figures.
pub enum Refusal {
    /// This host cannot run it.
    Skipped(String),
    /// It should have run.
    Failed(String),
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Refusal {
    fn from(e: E) -> Refusal {
        Refusal::Failed(e.into().to_string())
    }
}

/// What a case's run gives.
pub type Outcome = std::result::Result<Figures, Refusal>;

/// One run of a case; the argument says that it is a warm-up.
pub type Run<'a> = Box<dyn FnMut(bool) -> Outcome + 'a>;

/// A case that is about to run.
pub struct Spec<'a> {
    params: Vec<(String, String)>,
    /// Cases of the same group are compared with its baselines.
    group: String,
    /// The name under which others are compared with this one.
    baseline: Option<&'static str>,
    run: Run<'a>,
}

impl<'a> Spec<'a> {
    /// A case named by its parameters.
    pub fn new(params: &[(&str, &str)], run: impl FnMut(bool) -> Outcome + 'a) -> Spec<'a> {
        let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        Spec::owned(params.iter().map(own).collect(), run)
    }

    /// As [`Spec::new`], with parameters that were made on the way.
    pub fn owned(params: Vec<(String, String)>, run: impl FnMut(bool) -> Outcome + 'a) -> Spec<'a> {
        Spec {
            params,
            group: String::new(),
            baseline: None,
            run: Box::new(run),
        }
    }

    /// Compared with the baselines of `group`.
    pub fn group(mut self, group: impl Into<String>) -> Spec<'a> {
        self.group = group.into();
        self
    }

    /// The baseline called `name` of its group.
    pub fn baseline(mut self, name: &'static str) -> Spec<'a> {
        self.baseline = Some(name);
        self
    }
}

/// What cases have left besides their figures.
#[derive(Default)]
pub struct Extras {
    /// The last occupancy that was sampled with the most lanes.
    pub occupancy: Option<Occupancy>,
    /// Stages of both sides of the last run of a case that asked for them, by case.
    pub sides: Vec<(String, Vec<crate::peer::NodeReport>)>,
}

/// Runs cases by the common method.
pub struct Runner<'a> {
    /// The method.
    pub method: Method,
    /// CPUs of the host.
    pub cpus: usize,
    /// Takes progress lines.
    pub progress: &'a mut dyn FnMut(&str),
    /// What cases left besides their figures.
    pub extras: Extras,
}

/// Watches the machine from its making to [`NoiseMeter::stop`].
pub struct NoiseMeter {
    before: MachineTime,
    own_s: f64,
    started: Instant,
    spin: f64,
}

impl NoiseMeter {
    /// Starts watching.
    pub fn start() -> NoiseMeter {
        NoiseMeter {
            spin: spin_rate(),
            before: MachineTime::now(),
            own_s: children_and_self_cpu_seconds(),
            started: Instant::now(),
        }
    }

    /// What happened, and how long it took, seconds.
    pub fn stop(self, cpus: usize) -> (Noise, f64) {
        let elapsed = self.started.elapsed().as_secs_f64();
        let spent = MachineTime::now().since(&self.before);
        let own = children_and_self_cpu_seconds() - self.own_s + spent.ksoftirqd_s;
        let capacity = elapsed * cpus.max(1) as f64;
        let noise = Noise {
            other_load: ((spent.busy_s - own) / capacity).clamp(0.0, 1.0),
            steal: (spent.steal_s / capacity).clamp(0.0, 1.0),
            clock_drift: spin_rate() / self.spin - 1.0,
        };
        (noise, elapsed)
    }
}

impl Runner<'_> {
    /// Runs every case of a suite and puts its figures together.
    ///
    /// A case that fails or cannot run here is kept with the reason, and the others go on.
    pub fn sweep(&mut self, name: &str, title: &str, specs: Vec<Spec>) -> Suite {
        (self.progress)(&format!("{name}: {title}"));
        let meter = NoiseMeter::start();
        let mut rows: Vec<Row> = specs.into_iter().map(Row::new).collect();
        let rounds = self.method.warmup + self.method.runs;
        for round in 0..rounds {
            let warming = round < self.method.warmup;
            let label = match warming {
                true => "warm-up".to_owned(),
                false => format!(
                    "round {}/{}",
                    round + 1 - self.method.warmup,
                    self.method.runs
                ),
            };
            for row in rows.iter_mut().filter(|r| r.refused.is_none()) {
                let line = row.once(warming);
                (self.progress)(&format!("{name} {label} {}: {line}", row.case.id()));
            }
        }
        let (noise, seconds) = meter.stop(self.cpus);
        let reference: Vec<_> = rows
            .iter()
            .filter_map(|r| Some((r.spec.group.clone(), r.spec.baseline?, r.rounds.clone())))
            .collect();
        let mut cases = Vec::new();
        for row in rows {
            cases.push(row.finish(&reference, &mut self.extras));
        }
        Suite {
            name: name.to_owned(),
            title: title.to_owned(),
            seconds,
            noise,
            cases,
        }
    }
}

struct Row<'a> {
    spec: Spec<'a>,
    case: Case,
    rounds: Vec<BTreeMap<&'static str, f64>>,
    last: Figures,
    refused: Option<Refusal>,
}

impl<'a> Row<'a> {
    fn new(spec: Spec<'a>) -> Row<'a> {
        Row {
            case: Case {
                params: spec.params.clone(),
                ..Case::default()
            },
            spec,
            rounds: Vec::new(),
            last: Figures::default(),
            refused: None,
        }
    }

    /// Runs once; the answer is for the progress line.
    fn once(&mut self, warming: bool) -> String {
        match (self.spec.run)(warming) {
            Ok(figures) => {
                let shown = figures.values.iter().take(3);
                let shown: Vec<_> = shown.map(|(k, v)| format!("{k} {v:.3}")).collect();
                if !warming {
                    self.rounds.push(figures.values.clone());
                    self.last = figures;
                }
                shown.join(", ")
            }
            Err(refusal) => {
                let line = match &refusal {
                    Refusal::Skipped(why) => format!("SKIPPED: {why}"),
                    Refusal::Failed(why) => format!("FAILED: {why}"),
                };
                self.refused = Some(refusal);
                line
            }
        }
    }

    fn finish(self, baselines: &[(String, &str, Rounds)], extras: &mut Extras) -> Case {
        let mut case = self.case;
        match self.refused {
            Some(Refusal::Skipped(why)) => case.skipped = Some(why),
            Some(Refusal::Failed(why)) => case.failed = Some(why),
            None => {
                case.metrics = metrics(&self.rounds);
                for (group, to, theirs) in baselines {
                    if *group == self.spec.group && self.spec.baseline != Some(to) {
                        case.ratios.extend(ratios(&self.rounds, to, theirs));
                    }
                }
                if !self.last.sides.is_empty() {
                    extras.sides.push((case.id(), self.last.sides));
                }
                let lanes = |o: &Occupancy| o.counts.len();
                let best = extras.occupancy.as_ref().map_or(0, lanes);
                if let Some(mut seen) = self.last.occupancy.filter(|o| lanes(o) >= best) {
                    seen.case = case.id();
                    extras.occupancy = Some(seen);
                }
                case.curves = self.last.curves;
                case.series = self.last.series;
            }
        }
        case
    }
}

type Rounds = Vec<BTreeMap<&'static str, f64>>;

fn metrics(rounds: &[BTreeMap<&'static str, f64>]) -> Vec<Metric> {
    let known = METRICS.iter().map(|m| m.0);
    let seen = rounds.iter().flat_map(|r| r.keys().copied());
    let mut names: Vec<&str> = Vec::new();
    // Known ones first, in their order.
    for name in known.chain(seen) {
        if !names.contains(&name) && rounds.iter().any(|r| r.contains_key(name)) {
            names.push(name);
        }
    }
    let metric = |name: &&str| {
        let hit = METRICS.iter().find(|m| m.0 == *name);
        let (unit, better) = hit.map_or(("", Better::Neither), |m| (m.1, m.2));
        let values = rounds.iter().filter_map(|r| r.get(*name).copied());
        Metric::new(name, unit, better, values.collect())
    };
    names.iter().map(metric).collect()
}

/// Ratios of what both measured in the same rounds, for throughput and cost.
fn ratios(own: &Rounds, to: &str, theirs: &Rounds) -> Vec<Ratio> {
    let ratio = |metric: &'static str| {
        let pairs = own.iter().zip(theirs);
        let pair = |(a, b): (&BTreeMap<&str, f64>, &BTreeMap<&str, f64>)| {
            let (a, b) = (*a.get(metric)?, *b.get(metric)?);
            (b > 0.0).then_some(a / b)
        };
        let values: Vec<f64> = pairs.filter_map(pair).collect();
        (!values.is_empty()).then(|| Ratio {
            metric: metric.to_owned(),
            to: to.to_owned(),
            median: median(values),
        })
    };
    let compared = [
        "gb_per_s",
        "mbit_per_s",
        "cpu_s_per_gb",
        "mframes_per_s",
        "seal_gb_per_s",
        "open_gb_per_s",
        "encode_gb_per_s",
        "decode_gb_per_s",
        "compress_mb_per_s",
        "decompress_mb_per_s",
        "p50_us",
        "p99_us",
    ];
    compared.into_iter().filter_map(ratio).collect()
}

/// Calls `call` again and again for about `seconds`, and gives units done a second. `call` does one
/// batch and says how many units that was.
pub fn rate(seconds: f64, mut call: impl FnMut() -> Result<f64>) -> Result<f64> {
    let started = Instant::now();
    let mut units = 0.0;
    loop {
        units += call()?;
        let elapsed = started.elapsed().as_secs_f64();
        if elapsed >= seconds {
            return Ok(units / elapsed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn method() -> Method {
        Method {
            warmup: 1,
            runs: 3,
            seconds: 0.01,
            sender_core: 0,
            receiver_core: 0,
            target: 25e9,
            quick: true,
        }
    }

    #[test]
    fn rounds_are_interleaved_and_warm_ups_do_not_count() {
        let order = std::cell::RefCell::new(Vec::new());
        let mut progress = |_: &str| {};
        let mut runner = Runner {
            method: method(),
            cpus: 1,
            progress: &mut progress,
            extras: Extras::default(),
        };
        let spec = |name: &'static str, base: f64| {
            let order = &order;
            let mut n = 0.0;
            Spec::new(&[("case", name)], move |warming| {
                order.borrow_mut().push(name);
                n += 1.0;
                Ok(Figures::of(
                    "gb_per_s",
                    if warming { 1e9 } else { base * n },
                ))
            })
            .group("g")
        };
        let skipped = Spec::new(&[("case", "c")], |_| {
            Err(Refusal::Skipped("not here".to_owned()))
        });
        let failed = Spec::new(&[("case", "d")], |_| Err("broken".into()));
        let specs = vec![
            spec("a", 1.0).baseline("a"),
            spec("b", 4.0),
            skipped,
            failed,
        ];
        let suite = runner.sweep("t", "T.", specs);
        assert_eq!(order.borrow().join(""), "abababab");
        let m = suite.cases[0].metric("gb_per_s").unwrap();
        assert_eq!((m.min, m.median, m.max), (2.0, 3.0, 4.0));
        assert!(suite.cases[0].ratios.is_empty());
        assert_eq!(suite.cases[1].ratios[0].median, 4.0);
        assert_eq!(suite.cases[2].skipped.as_deref(), Some("not here"));
        assert_eq!(suite.cases[3].failed.as_deref(), Some("broken"));
        assert!(suite.cases[3].metrics.is_empty());
    }

    #[test]
    fn a_rate_counts_what_was_done() {
        let per_s = rate(0.02, || {
            std::thread::sleep(std::time::Duration::from_millis(1));
            Ok(1.0)
        });
        let per_s = per_s.unwrap();
        assert!(per_s > 0.0 && per_s <= 1000.0, "{per_s}");
        assert!(rate(0.01, || Err("no".into())).is_err());
    }

    #[test]
    fn what_is_no_number_is_left_out() {
        assert!(Figures::of("gb_per_s", f64::NAN).values.is_empty());
        assert!(metrics(&[]).is_empty());
    }
}
