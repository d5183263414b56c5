//! The suites: what each measures, and the one run of all of them.

pub mod accel;
pub mod bed;
pub mod cli;
pub mod cpu;
pub mod net;
pub mod paths;
pub mod runner;
pub mod sites;
pub mod sustained;
pub mod table;

use crate::bottleneck::{self, Ceilings};
use crate::host::Host;
use crate::peer::NodeReport;
use crate::schema::{Case, Document, Method, SCHEMA, Suite};
use crate::{Result, corpus, target};
use bed::Bed;
use cli::{
    Acceleration, Compression, Concurrency, Encryption, Network, Paths, Payload, Sustained,
    Throughput, Verification,
};
use ctp96::crypto::Provider;
use ctp96::verify::Level;
use runner::{Extras, NoiseMeter, Runner};
use sites::Sites;

/// A suite with its options.
pub enum Job {
    /// How fast, beside TCP, TLS and QUIC.
    Throughput(Throughput),
    /// Streams over lanes.
    Concurrency(Concurrency),
    /// Message sizes.
    Payload(Payload),
    /// Codec x level x corpus.
    Compression(Compression),
    /// Suite x provider x frame size.
    Encryption(Encryption),
    /// Fast against full.
    Verification(Verification),
    /// Kernels of the CPU's extensions, and 1..N cores.
    Acceleration(Acceleration),
    /// Backend x MTU x offload x queues.
    Network(Network),
    /// Lossy and long paths.
    Paths(Paths),
    /// Held rates.
    Sustained(Sustained),
}

impl Job {
    /// The nine suites of one host as they are by default. Paths come alone: their table takes
    /// longer than all of these.
    pub fn all() -> Vec<Job> {
        vec![
            Job::Encryption(Encryption::default()),
            Job::Acceleration(Acceleration::default()),
            Job::Compression(Compression::default()),
            Job::Throughput(Throughput::default()),
            Job::Concurrency(Concurrency::default()),
            Job::Payload(Payload::default()),
            Job::Verification(Verification::default()),
            Job::Network(Network::default()),
            Job::Sustained(Sustained::default()),
        ]
    }
}

/// Runs `jobs` and puts everything into one document.
///
/// # Errors
/// Options that make no sense here, or a network that cannot be made. A case that fails is in the
/// document and no error.
pub fn run(method: Method, jobs: &[Job], progress: &mut dyn FnMut(&str)) -> Result<Document> {
    let host = Host::describe();
    let meter = NoiseMeter::start();
    let cpus = host.cpus;
    for core in [method.sender_core, method.receiver_core] {
        crate::peer::pin(core)?;
    }
    let mut runner = Runner {
        method: method.clone(),
        cpus,
        progress,
        extras: Extras::default(),
    };
    let mut suites = Vec::new();
    let mut bottlenecks = Vec::new();
    for job in jobs {
        runner.extras.sides.clear();
        let suite = one(&mut runner, job)?;
        if let Job::Throughput(_) = job {
            for (case, sides) in &runner.extras.sides {
                let ceilings = ceilings(&suite, case, sides, &method);
                bottlenecks.extend(bottleneck::analyse(case, sides, &ceilings));
            }
        }
        match suites
            .iter_mut()
            .find(|s: &&mut Suite| s.name == suite.name)
        {
            // The network suite comes once for each way of crossing.
            Some(same) => {
                same.seconds += suite.seconds;
                same.cases.extend(suite.cases);
            }
            None => suites.push(suite),
        }
    }
    let occupancy = runner.extras.occupancy.take();
    let (noise, seconds) = meter.stop(cpus);
    let mut doc = Document {
        schema: SCHEMA,
        host,
        method,
        noise,
        seconds,
        suites,
        bottlenecks,
        target: None,
        occupancy,
    };
    doc.target = target::of(&doc);
    Ok(doc)
}

fn one(runner: &mut Runner, job: &Job) -> Result<Suite> {
    let m = runner.method.clone();
    let (core, seconds) = (m.sender_core, m.seconds);
    // A call on one core needs no long look.
    let call = (seconds / 5.0).max(0.02);
    let bed = Bed {
        sender_core: m.sender_core,
        receiver_core: m.receiver_core,
        seconds,
    };
    Ok(match job {
        Job::Throughput(o) => {
            let sites = Sites::open(&o.site.over(), &o.site.mtu, o.site.per_frame)?;
            let memory: &[u32] = match o.site.has_memory() {
                true => &o.site.mtu,
                false => &[],
            };
            let specs = net::throughput(bed, &sites, memory, &o.site.backend, &o.suite)?;
            let title = "bulk transfer beside TCP, TLS 1.3, QUIC and the bare socket";
            runner.sweep("throughput", title, specs)
        }
        Job::Concurrency(o) => {
            let sites = Sites::open(&o.site.over(), &o.site.mtu, o.site.per_frame)?;
            let message = usize::try_from(o.message)?;
            let specs = net::concurrency(
                bed,
                &sites,
                &o.site.backend,
                &o.concurrency,
                o.lanes,
                message,
            )?;
            runner.sweep(
                "concurrency",
                "streams of messages over the lanes there are",
                specs,
            )
        }
        Job::Payload(o) => {
            let sites = Sites::open(&o.site.over(), &o.site.mtu, o.site.per_frame)?;
            let specs = net::payload(bed, &sites, &o.site.backend, &o.payload)?;
            runner.sweep("payload", "messages of one stream by their size", specs)
        }
        Job::Compression(o) => {
            let corpora = corpus::all();
            let specs = cpu::compression(&o.codec, &corpora, core, 2.0 * call)?;
            runner.sweep(
                "compression",
                "codec by level and corpus, slot by slot",
                specs,
            )
        }
        Job::Encryption(o) => {
            let specs = cpu::encryption(&o.frame, core, call);
            runner.sweep("encryption", "bare sealing and opening on one core", specs)
        }
        Job::Verification(o) => {
            let sites = Sites::open(&o.site.over(), &o.site.mtu, o.site.per_frame)?;
            let mut specs = cpu::digests(core, call);
            specs.extend(net::verification(bed, &sites, &o.site.backend));
            runner.sweep("verification", "fast against full", specs)
        }
        Job::Acceleration(_) => {
            let specs = accel::acceleration(core, runner.cpus, call);
            let title = "what the CPU's extensions and further cores bring";
            runner.sweep("acceleration", title, specs)
        }
        Job::Network(o) => network(runner, bed, o)?,
        Job::Paths(o) => {
            let sites = paths::Sites::open(o)?;
            (runner.progress)(&paths::conditions(o, &sites));
            let quick = if m.quick { 2.0 } else { 5.0 };
            let bed = paths::Bed {
                cores: [m.sender_core, m.receiver_core],
                seconds: o.duration.unwrap_or(quick),
            };
            let specs = paths::cases(bed, o, &sites)?;
            // Time limits a run, so nothing has to be found out first.
            runner.method.warmup = 0;
            let title = "goodput over lossy and long paths, beside TCP and QUIC";
            let suite = runner.sweep("paths", title, specs);
            runner.method.warmup = m.warmup;
            suite
        }
        Job::Sustained(o) => {
            let sites = Sites::open(&o.site.over(), &o.site.mtu, o.site.per_frame)?;
            let quick = if m.quick { 10.0 } else { 120.0 };
            let bed = Bed {
                seconds: o.duration.unwrap_or(quick),
                ..bed
            };
            let message = usize::try_from(o.message)?;
            let specs = sustained::sustained(bed, &sites, &o.site.backend, &o.rate, message);
            // One long run says more than several short ones.
            runner.method.runs = o.repeat;
            let title = "a held rate: tail, drift and memory";
            let suite = runner.sweep("sustained", title, specs);
            runner.method.runs = m.runs;
            suite
        }
    })
}

fn network(runner: &mut Runner, bed: Bed, o: &Network) -> Result<Suite> {
    let mut whole: Option<Suite> = None;
    for crossing in &o.gso {
        let per_frame = crossing == "per-frame";
        let sites = Sites::open(&o.over, &o.mtu, per_frame)?;
        let specs = net::network(bed, &sites, crossing, &o.backend, &o.queues);
        let title = "backend by MTU, offload and queues, beside the bare socket and bare rings";
        let suite = runner.sweep("network", title, specs);
        match &mut whole {
            Some(all) => {
                all.seconds += suite.seconds;
                all.cases.extend(suite.cases);
            }
            None => whole = Some(suite),
        }
    }
    whole.ok_or_else(|| "no way of crossing given".into())
}

/// What the pieces of a transfer do alone, as far as they can be measured now.
fn ceilings(suite: &Suite, case: &str, sides: &[NodeReport], method: &Method) -> Ceilings {
    let mut c = Ceilings::default();
    let Some(node) = sides.first() else {
        return c;
    };
    // A figure that cannot be had stays zero, and the report leaves it out.
    let (core, seconds) = (method.sender_core, 0.1);
    let named = |p: &Provider| p.name() == node.provider;
    if let Some(provider) = cpu::providers().into_iter().find(named) {
        c.seal_gb_per_s = cpu::seal_rate(provider, node.symbol_len, core, seconds).unwrap_or(0.0);
        c.open_gb_per_s = cpu::open_rate(provider, node.symbol_len, core, seconds).unwrap_or(0.0);
    }
    c.clock_ghz = crate::host::clock_ghz();
    c.copy_gb_per_s = cpu::memory_bandwidth(&[core], seconds).unwrap_or(0.0);
    let level = node.verify.parse().unwrap_or(Level::Fast);
    c.digest_gb_per_s = cpu::digest_rate(level, core, seconds).unwrap_or(0.0);
    let own = suite.cases.iter().find(|k| k.id() == case);
    let same_place = |k: &&Case| {
        own.is_some_and(|own| ["over", "mtu"].iter().all(|p| own.param(p) == k.param(p)))
            && k.param("stack") == "bare udp"
    };
    if let Some(bare) = suite.cases.iter().find(same_place) {
        let cost = |name: &str| bare.metric(name).map_or(0.0, |m| m.median);
        c.send_cpu_s_per_gb = cost("send_cpu_s_per_gb");
        c.recv_cpu_s_per_gb = cost("recv_cpu_s_per_gb");
    }
    c
}
