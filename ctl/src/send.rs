//! `ctp96 send`: asks the daemon, shows progress, outlives the daemon, sums up.

use crate::cli::{SendArgs, Sink};
use crate::out::{self, Failure};
use crate::progress::Progress;
use crate::summary::{Outcome, between};
use ctp96::base::limits::TARGET_BYTES_PER_S;
use ctp96::control::api::{
    HistReply, Job, JobReply, JobState, Request, SendDest, SendReply, SendRequest, SendSource,
    StatusReply,
};
use ctp96::control::client::{Client, ClientError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long one question about the job waits for news, milliseconds.
const WAIT_MS: u64 = 500;
/// Between two questions while news keep coming.
const POLL: Duration = Duration::from_millis(50);
/// Between two tries to reach a daemon that went away.
const RETRY: Duration = Duration::from_millis(250);
/// Between two JSON lines of progress.
const JSON_EVERY: Duration = Duration::from_secs(1);

/// Runs the command.
pub fn run(socket: &Path, args: &SendArgs, as_json: bool) -> Result<(), Failure> {
    let request = Request::Send(request(args)?);
    let mut link = Link::open(socket)?;
    let before: HistReply = link.client.call(&Request::Hist { lane: None })?;
    let started = Instant::now();
    let mut id = link.client.call::<SendReply>(&request)?.id;
    let mut progress = Progress::new(as_json);
    let mut said = started;
    let (mut since, mut restarts, mut resumed_at_first) = (None, 0, None);
    let job = loop {
        let asked = Request::Job {
            id,
            since,
            wait_ms: WAIT_MS,
        };
        match link.client.call::<JobReply>(&asked) {
            Ok(reply) if reply.boot_id == link.boot_id => {
                let job = reply.job;
                since = Some(job.version);
                progress.show(&job);
                if as_json && said.elapsed() >= JSON_EVERY {
                    said = Instant::now();
                    out::json(&job);
                }
                if job.state.is_final() {
                    break job;
                }
                if restarts == 0 {
                    resumed_at_first = Some(job.bytes_resumed);
                }
                std::thread::sleep(POLL);
            }
            // Another daemon answered on the same connection: cannot be, but is no reason to
            // follow a job that is not ours.
            Ok(_) => link.reopen(socket, &progress)?,
            Err(ClientError::Unreachable(why)) => {
                progress.line(&format!(
                    "{why}; waiting for ctp96d to come back (Ctrl-C ends this)"
                ));
                let old = link.boot_id;
                link.reopen(socket, &progress)?;
                if link.boot_id != old {
                    // The journals know what is durable: the same request goes on from there.
                    restarts += 1;
                    progress.line("ctp96d is back; asking for the same transfer again");
                    id = link.client.call::<SendReply>(&request)?.id;
                    since = None;
                }
            }
            Err(ClientError::Refused(e)) => return Err(Failure::Failed(e.0)),
        }
    };
    progress.finish();
    let wall_s = started.elapsed().as_secs_f64();
    // The job is over; a daemon that went away right now only costs the stage times.
    let hists = link
        .client
        .call(&Request::Hist { lane: None })
        .map_or(vec![], |after| between(&before, &after));
    let resumed = if restarts == 0 {
        job.bytes_resumed
    } else {
        resumed_at_first.unwrap_or(0)
    };
    let moved = job.bytes_done.saturating_sub(resumed);
    let bytes_per_s = if restarts == 0 {
        job.bytes_per_s
    } else {
        moved as f64 / wall_s
    };
    let outcome = Outcome {
        ok: job.state == JobState::Done && job.files_failed == 0,
        wall_s,
        restarts,
        moved_bytes: moved,
        bytes_per_s,
        target_percent: bytes_per_s / TARGET_BYTES_PER_S * 100.0,
        hists,
        job,
    };
    if as_json {
        out::json(&outcome);
    } else {
        out::text(&outcome.text());
    }
    if let Some(dir) = &args.receipts {
        save_receipts(dir, &outcome.job)?;
    }
    verdict(&outcome)
}

fn verdict(o: &Outcome) -> Result<(), Failure> {
    let why = o.job.why.as_deref().unwrap_or("the daemon gives no reason");
    match o.job.state {
        _ if o.ok => Ok(()),
        JobState::Cancelled => Err(Failure::Failed("the transfer was cancelled".into())),
        JobState::Done => Err(Failure::Failed(format!(
            "{} objects failed: {why}",
            o.job.files_failed
        ))),
        _ => Err(Failure::Failed(format!("the transfer failed: {why}"))),
    }
}

/// A connection to the daemon, and which run of it that is.
struct Link {
    client: Client,
    boot_id: u64,
}

impl Link {
    fn open(socket: &Path) -> Result<Link, ClientError> {
        let mut client = Client::connect(socket)?;
        let status: StatusReply = client.call(&Request::Status)?;
        Ok(Link {
            client,
            boot_id: status.engine.boot_id,
        })
    }

    /// Tries until the daemon is back.
    fn reopen(&mut self, socket: &Path, progress: &Progress) -> Result<(), Failure> {
        let mut tries = 0u32;
        loop {
            std::thread::sleep(RETRY);
            match Link::open(socket) {
                Ok(link) => {
                    *self = link;
                    return Ok(());
                }
                Err(ClientError::Unreachable(why)) => {
                    tries += 1;
                    if tries.is_multiple_of(40) {
                        progress.line(&format!("still waiting: {why}"));
                    }
                }
                Err(ClientError::Refused(e)) => return Err(Failure::Failed(e.0)),
            }
        }
    }
}

/// The request that the arguments mean.
fn request(args: &SendArgs) -> Result<SendRequest, Failure> {
    let usage = |text: String| Err(Failure::Usage(text));
    let Some((target, files)) = args.what.split_last() else {
        return usage("name the peer: FILE.. PEER[:DIR]".into());
    };
    let (peer, dir) = target.split_once(':').unwrap_or((target, ""));
    if peer.is_empty() {
        return usage(format!("{target:?} names no peer; write PEER or PEER:DIR"));
    }
    let source = match (&args.source, files) {
        (Some(source), []) => source.clone(),
        (Some(_), [first, ..]) => {
            return usage(format!(
                "--source sends generated bytes, so leave out {first:?}"
            ));
        }
        (None, []) => {
            return usage(format!(
                "nothing to send to {target:?}: write ctp96 send FILE.. {target}, or use --source"
            ));
        }
        (None, files) => SendSource::Files(
            files
                .iter()
                .map(|f| absolute(Path::new(f)))
                .collect::<Result<_, _>>()?,
        ),
    };
    let dest = match args.sink {
        Sink::Files => SendDest::Dir(dir.to_owned()),
        Sink::Discard if dir.is_empty() => SendDest::Discard(true),
        Sink::Discard => {
            return usage(format!(
                "--sink discard writes no files, so leave out :{dir}"
            ));
        }
    };
    Ok(SendRequest {
        peer: peer.to_owned(),
        source,
        dest,
        lanes: args.lanes.map(usize::from),
        compress: args.compress,
    })
}

/// The daemon has a working directory of its own, so it is told whole paths.
fn absolute(file: &Path) -> Result<String, Failure> {
    let fail = |e: &dyn std::fmt::Display| Failure::Failed(format!("{}: {e}", file.display()));
    // Says early what the daemon would find out later. It must be there; whether the daemon may
    // read it, only the daemon can tell.
    std::fs::symlink_metadata(file).map_err(|e| fail(&e))?;
    let path = std::path::absolute(file).map_err(|e| fail(&e))?;
    path.into_os_string()
        .into_string()
        .map_err(|_| fail(&"the name is not valid UTF-8"))
}

fn save_receipts(dir: &Path, job: &Job) -> Result<(), Failure> {
    if job.receipts.is_empty() {
        out::note(
            "ctp96: the peer signed no receipts; they need [verify] level = \"full\" here or there\n",
        );
        return Ok(());
    }
    let fail = |p: &Path, e: String| Failure::Failed(format!("receipt {}: {e}", p.display()));
    std::fs::create_dir_all(dir).map_err(|e| fail(dir, e.to_string()))?;
    for (i, r) in job.receipts.iter().enumerate() {
        let path = receipt_path(dir, &r.object, i);
        let text = r.to_json().map_err(|e| fail(&path, e.to_string()))?;
        std::fs::write(&path, text + "\n").map_err(|e| fail(&path, e.to_string()))?;
    }
    out::note(&format!(
        "{} receipts in {}\n",
        job.receipts.len(),
        dir.display()
    ));
    Ok(())
}

/// Where a receipt goes: named after its object, and always directly in `dir`.
fn receipt_path(dir: &Path, object: &str, number: usize) -> PathBuf {
    let name: String = object
        .chars()
        .map(|c| if c == '/' || c.is_control() { '_' } else { c })
        .collect();
    // File names end at 255 bytes.
    let name = if name.len() > 200 {
        format!("{number}")
    } else {
        name
    };
    dir.join(format!("{name}.receipt"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn parse(line: &str) -> Result<SendRequest, Failure> {
        let words = ["ctp96", "send"].into_iter().chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).expect("clap takes it");
        let Command::Send(args) = cli.command else {
            panic!("not send")
        };
        request(&args)
    }

    #[test]
    fn arguments_become_a_request() {
        let r = parse("/etc/passwd archive:in/x --lanes 3 --compress zstd:1").expect("good");
        assert_eq!(r.source, SendSource::Files(vec!["/etc/passwd".into()]));
        assert_eq!(
            (r.peer.as_str(), r.dest),
            ("archive", SendDest::Dir("in/x".into()))
        );
        assert_eq!(
            (r.lanes, r.compress.map(|c| c.to_string())),
            (Some(3), Some("zstd:1".into()))
        );
        let r = parse("--source zero:1KiB --sink discard archive").expect("good");
        assert_eq!(
            (r.source, r.dest),
            (SendSource::Zero(1024), SendDest::Discard(true))
        );
        let here = std::env::current_dir()
            .expect("there is one")
            .join("Cargo.toml");
        let r = parse("Cargo.toml b").expect("good");
        assert_eq!(
            r.source,
            SendSource::Files(vec![here.display().to_string()])
        );
    }

    #[test]
    fn nonsense_is_refused_with_the_right_form() {
        for (line, want) in [
            ("archive", "nothing to send"),
            ("/etc/passwd :dir", "names no peer"),
            ("--source zero:1 /etc/passwd b", "leave out \"/etc/passwd\""),
            ("--source zero:1 --sink discard b:dir", "leave out :dir"),
            ("/nonexistent/file b", "/nonexistent/file: "),
        ] {
            let e = parse(line).expect_err(line);
            assert!(e.text().contains(want), "{line}: {}", e.text());
        }
    }

    #[test]
    fn receipts_stay_in_their_directory() {
        let dir = Path::new("/r");
        for (object, want) in [("a/b", "/r/a_b.receipt"), ("../x", "/r/.._x.receipt")] {
            assert_eq!(receipt_path(dir, object, 0), Path::new(want));
        }
        let long = "x".repeat(300);
        assert_eq!(receipt_path(dir, &long, 7), Path::new("/r/7.receipt"));
    }
}
