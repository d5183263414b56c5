//! `ctp96`: the command for the CTP-96 daemon of this host.

mod cli;
mod doctor;
mod hist;
mod host;
mod keys;
mod out;
mod progress;
mod queues;
mod record;
mod send;
mod show;
mod summary;
mod top;

use clap::Parser;
use cli::{Cli, Command};
use ctp96::control::api::{CountersReply, DoneReply, JobsReply, LanesReply, PeersReply};
use ctp96::control::api::{Request, StatusReply};
use ctp96::control::client::{Client, ClientError};
use out::Failure;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    // clap prints help and mistakes itself, and exits with 0 or 2.
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(f) => {
            out::complain(&f, cli.json);
            f.code()
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    let socket = &cli.socket();
    match &cli.command {
        Command::Status => report(cli, &Request::Status, |r: &StatusReply| show::status(r)),
        Command::Peers => report(cli, &Request::Peers, |r: &PeersReply| show::peers(r)),
        Command::Lanes => report(cli, &Request::Lanes, |r: &LanesReply| show::lanes(r)),
        Command::Hist(args) => hist::run(socket, args, cli.json),
        Command::Record(args) => record::run(socket, args, cli.json),
        Command::Top(args) => top::run(socket, args, cli.json),
        Command::Counters { check, all } => {
            let request = Request::Counters { check: *check };
            let reply: CountersReply = ask(socket, &request)?;
            print_reply(cli, &reply, |r| show::counters(r, *all));
            match &reply.check {
                Some(c) if !c.broken.is_empty() => Err(Failure::Failed(show::broken(c))),
                _ => Ok(()),
            }
        }
        Command::Keys { command } => keys::run(command, cli.json),
        Command::Send(args) => send::run(socket, args, cli.json),
        Command::Jobs => report(cli, &Request::Jobs, |r: &JobsReply| show::jobs(r)),
        Command::Cancel { id } => report(cli, &Request::Cancel { id: *id }, |_: &DoneReply| {
            format!("cancelled {id}\n")
        }),
        Command::Receipt { command } => keys::receipt(command, cli.json),
        Command::Doctor { interface } => doctor::run(interface, cli.json),
        Command::Queues { command } => queues::run(command, cli.json),
        Command::Stop => report(cli, &Request::Stop, |_: &DoneReply| "stopping\n".to_owned()),
    }
}

fn ask<T: DeserializeOwned>(socket: &Path, request: &Request) -> Result<T, Failure> {
    Ok(Client::connect(socket)?.call(request)?)
}

fn report<T: DeserializeOwned + Serialize>(
    cli: &Cli,
    request: &Request,
    text: impl FnOnce(&T) -> String,
) -> Result<(), Failure> {
    let reply = ask(&cli.socket(), request)?;
    print_reply(cli, &reply, text);
    Ok(())
}

fn print_reply<T: Serialize>(cli: &Cli, reply: &T, text: impl FnOnce(&T) -> String) {
    if cli.json {
        out::json(reply)
    } else {
        out::text(&text(reply))
    }
}

impl From<ClientError> for Failure {
    fn from(e: ClientError) -> Failure {
        match e {
            ClientError::Unreachable(text) => Failure::Unreachable(text),
            ClientError::Refused(e) => Failure::Failed(e.0),
        }
    }
}
