//! What a run of suites leaves behind: one document, versioned, that `diff` and `report` read again.
//!
//! Every figure is a [`Metric`]: its single rounds, their median and their ends. Readers ignore
//! fields that they do not know; a document of another [`SCHEMA`] is refused.

use crate::Result;
use crate::host::Host;
use crate::stats::{median, range};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Version of the document's layout. It grows when a field changes its meaning or goes.
pub const SCHEMA: u32 = 1;

/// Everything that one call of the bench measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Document {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// The machine.
    pub host: Host,
    /// How it was measured.
    pub method: Method,
    /// What the machine did besides, over the whole run.
    pub noise: Noise,
    /// Wall time of the whole run, seconds.
    pub seconds: f64,
    /// What was measured, in the order in which it ran.
    pub suites: Vec<Suite>,
    /// Where the time of a transfer goes, for each side.
    #[serde(default)]
    pub bottlenecks: Vec<crate::bottleneck::Bottleneck>,
    /// What the target would take on this kind of host.
    #[serde(default)]
    pub target: Option<crate::target::Target>,
    /// How full the windows were while slots were in flight.
    #[serde(default)]
    pub occupancy: Option<Occupancy>,
}

/// How the figures came about.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Method {
    /// Unmeasured rounds before the first measured one.
    pub warmup: u32,
    /// Measured rounds; every round runs every case of a suite once.
    pub runs: u32,
    /// Length that a measurement aims at, seconds.
    pub seconds: f64,
    /// CPU of the sending process, or of the one measuring thread.
    pub sender_core: usize,
    /// CPU of the receiving process.
    pub receiver_core: usize,
    /// Throughput that is aimed at, bytes per second.
    pub target: f64,
    /// Whether the short form was asked for.
    pub quick: bool,
}

/// What made the figures uncertain.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Noise {
    /// CPU time of other programs, as a share of all CPUs' time.
    pub other_load: f64,
    /// CPU time that the hypervisor took, as a share of all CPUs' time.
    pub steal: f64,
    /// How far the speed of a fixed loop moved between the start and the end, as a share.
    pub clock_drift: f64,
}

/// One suite.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Suite {
    /// Its command, such as `payload`.
    pub name: String,
    /// What it answers, in a sentence.
    pub title: String,
    /// Wall time that it took, seconds.
    pub seconds: f64,
    /// What the machine did besides.
    pub noise: Noise,
    /// Its rows.
    pub cases: Vec<Case>,
}

/// One row of a suite.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Case {
    /// What distinguishes it within its suite, in the order in which it is shown.
    pub params: Vec<(String, String)>,
    /// Its figures.
    pub metrics: Vec<Metric>,
    /// Its figures against those of baselines in the same rounds.
    #[serde(default)]
    pub ratios: Vec<Ratio>,
    /// Latency curves, by name.
    #[serde(default)]
    pub curves: Vec<Curve>,
    /// How a figure developed within a run.
    #[serde(default)]
    pub series: BTreeMap<String, Vec<f64>>,
    /// Why it could not run here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// Which direction is an improvement.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Throughput.
    Higher,
    /// Cost, latency.
    Lower,
    /// A fact about the run.
    Neither,
}

/// One figure, round by round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Metric {
    /// Name, such as `gb_per_s`.
    pub name: String,
    /// Unit as shown.
    pub unit: String,
    /// Which direction is an improvement.
    pub better: Better,
    /// Median of the rounds.
    pub median: f64,
    /// Smallest round.
    pub min: f64,
    /// Largest round.
    pub max: f64,
    /// The rounds in the order in which they ran.
    pub values: Vec<f64>,
}

/// A figure against a baseline's, taken within each round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ratio {
    /// Metric that is compared.
    pub metric: String,
    /// The baseline, such as `tcp` or `tls`.
    pub to: String,
    /// Median over the rounds.
    pub median: f64,
}

/// Percentiles of a latency.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Curve {
    /// What is measured.
    pub name: String,
    /// Values recorded.
    pub count: u64,
    /// Percentile and nanoseconds.
    pub points: Vec<(f64, u64)>,
}

/// How many slots were in flight at each address of the atlas, over samples of one run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Occupancy {
    /// The run that was sampled.
    pub case: String,
    /// Samples taken.
    pub samples: u32,
    /// For each lane and class (`lane * 96 + class`), in how many samples its slot was in flight.
    pub counts: Vec<u32>,
}

impl Metric {
    /// The figure of these rounds.
    pub fn new(name: &str, unit: &str, better: Better, values: Vec<f64>) -> Metric {
        let (min, max) = range(values.iter().copied());
        Metric {
            name: name.to_owned(),
            unit: unit.to_owned(),
            better,
            median: median(values.iter().copied()),
            min,
            max,
            values,
        }
    }
}

impl Curve {
    /// The curve of a histogram of nanoseconds, at the percentiles that matter to a reader.
    pub fn of(name: &str, hist: &hdrhistogram::Histogram<u64>) -> Curve {
        let at = [
            0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99, 100.0,
        ];
        Curve {
            name: name.to_owned(),
            count: hist.len(),
            points: if hist.is_empty() {
                Vec::new()
            } else {
                let value = |p: f64| match p {
                    0.0 => hist.min(),
                    p => hist.value_at_percentile(p),
                };
                at.iter().map(|&p| (p, value(p))).collect()
            },
        }
    }

    /// The value at percentile `p`, if the curve has it.
    pub fn at(&self, p: f64) -> Option<u64> {
        let hit = |point: &&(f64, u64)| (point.0 - p).abs() < 1e-9;
        self.points.iter().find(hit).map(|point| point.1)
    }
}

impl Case {
    /// Its parameters in one line, which names it within its suite.
    pub fn id(&self) -> String {
        let parts = self.params.iter().map(|(k, v)| format!("{k}={v}"));
        parts.collect::<Vec<_>>().join(" ")
    }

    /// The metric of that name.
    pub fn metric(&self, name: &str) -> Option<&Metric> {
        self.metrics.iter().find(|m| m.name == name)
    }

    /// The parameter of that name, or nothing.
    pub fn param(&self, name: &str) -> &str {
        let hit = self.params.iter().find(|(k, _)| k == name);
        hit.map_or("", |(_, v)| v)
    }
}

impl Document {
    /// Reads a document that this program wrote.
    ///
    /// # Errors
    /// The file cannot be read, is no document, or is one of another schema.
    pub fn load(path: &Path) -> Result<Document> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Document::parse(&text).map_err(|e| format!("{}: {e}", path.display()).into())
    }

    /// As [`Document::load`], from its text.
    ///
    /// # Errors
    /// The text is no document, or one of another schema.
    pub fn parse(text: &str) -> Result<Document> {
        #[derive(Deserialize)]
        struct Head {
            schema: u32,
        }
        let head: Head = serde_json::from_str(text)
            .map_err(|e| format!("no document of ctp96-bench's suites: {e}"))?;
        if head.schema != SCHEMA {
            return Err(format!("schema {}, and this program reads {SCHEMA}", head.schema).into());
        }
        Ok(serde_json::from_str(text)?)
    }

    /// The suite of that name.
    pub fn suite(&self, name: &str) -> Option<&Suite> {
        self.suites.iter().find(|s| s.name == name)
    }

    /// Cases that failed, as `suite: case: why`.
    pub fn failures(&self) -> Vec<String> {
        let of = |s: &Suite| {
            let name = s.name.clone();
            let failed = |c: &Case| Some(format!("{name}: {}: {}", c.id(), c.failed.as_ref()?));
            s.cases.iter().filter_map(failed).collect::<Vec<_>>()
        };
        self.suites.iter().flat_map(of).collect()
    }

    /// One line a figure, for spreadsheets.
    pub fn csv(&self) -> String {
        let mut out = String::from("suite,case,metric,unit,better,median,min,max,runs\n");
        for suite in &self.suites {
            for case in &suite.cases {
                let id = csv_field(&case.id());
                for m in &case.metrics {
                    let better = match m.better {
                        Better::Higher => "higher",
                        Better::Lower => "lower",
                        Better::Neither => "",
                    };
                    out += &format!(
                        "{},{id},{},{},{better},{},{},{},{}\n",
                        suite.name,
                        csv_field(&m.name),
                        csv_field(&m.unit),
                        m.median,
                        m.min,
                        m.max,
                        m.values.len()
                    );
                }
                for r in &case.ratios {
                    out += &format!(
                        "{},{id},{},x,,{},,,\n",
                        suite.name,
                        csv_field(&format!("{} / {}", r.metric, r.to)),
                        r.median
                    );
                }
            }
        }
        out
    }
}

/// Quotes a field where it needs it (RFC 4180).
fn csv_field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A document with one suite of two cases.
    pub fn sample(gb_per_s: f64) -> Document {
        let values = vec![gb_per_s * 0.99, gb_per_s, gb_per_s * 1.01];
        let case = |stack: &str| Case {
            params: vec![
                ("stack".into(), stack.into()),
                ("mtu".into(), "1500".into()),
            ],
            metrics: vec![
                Metric::new("gb_per_s", "GB/s", Better::Higher, values.clone()),
                Metric::new("cpu_s_per_gb", "s/GB", Better::Lower, vec![1.0, 1.1, 1.2]),
            ],
            ..Case::default()
        };
        Document {
            schema: SCHEMA,
            host: Host::describe(),
            method: Method {
                warmup: 1,
                runs: 3,
                seconds: 0.3,
                sender_core: 0,
                receiver_core: 1,
                target: 25e9,
                quick: true,
            },
            noise: Noise::default(),
            seconds: 1.0,
            suites: vec![Suite {
                name: "throughput".into(),
                title: "How fast.".into(),
                seconds: 1.0,
                noise: Noise::default(),
                cases: vec![case("ctp96, fast"), case("tcp")],
            }],
            bottlenecks: Vec::new(),
            target: None,
            occupancy: None,
        }
    }

    #[test]
    fn a_document_survives_its_file() {
        let doc = sample(1.25);
        let text = serde_json::to_string(&doc).unwrap();
        let back = Document::parse(&text).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
        let m = back.suite("throughput").unwrap().cases[0].metric("gb_per_s");
        assert_eq!(m.unwrap().median, 1.25);
    }

    #[test]
    fn other_schemas_and_other_files_are_refused() {
        let mut doc = sample(1.0);
        doc.schema = SCHEMA + 1;
        let text = serde_json::to_string(&doc).unwrap();
        let refused = Document::parse(&text).unwrap_err().to_string();
        assert!(refused.contains("schema 2"), "{refused}");
        for bad in ["", "{}", "[1]", "{\"schema\":1}", "{\"schema\":\"1\"}"] {
            assert!(Document::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn csv_has_a_line_for_each_figure() {
        let csv = sample(2.0).csv();
        assert_eq!(csv.lines().count(), 1 + 4);
        assert!(csv.contains("throughput,\"stack=ctp96, fast mtu=1500\",gb_per_s,GB/s,higher,2,"));
    }
}
