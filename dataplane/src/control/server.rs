//! The daemon's end of the control socket.
//!
//! One thread for each connection, up to a limit; each reads a line of bounded length, answers it,
//! and reads the next. Requests are rare and small, and none touches the data path.

use super::api::{ApiError, MAX_REQUEST_LEN, Reply, Request, parse_request, reply_line};
use socket2::{Domain, SockAddr, Socket, Type};
use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Connections served at once; a further one is told so and closed.
pub const MAX_CONNECTIONS: usize = 32;
/// A connection that says nothing for this long is closed.
const IDLE: Duration = Duration::from_secs(600);
/// A client that does not take its reply for this long is dropped.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request; may take as long as the request allows.
    ///
    /// # Errors
    /// One sentence for the person who asked.
    fn handle(&self, request: Request) -> Result<Reply, ApiError>;
}

/// A bound control socket that nobody serves yet.
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

/// Why the control socket could not be opened, as a sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BindError(String);

impl Listener {
    /// Binds `path` with mode 0600, its directory made if it is missing. A socket that a dead
    /// daemon left behind is replaced; one that a living daemon listens on is not.
    ///
    /// # Errors
    /// What is in the way, and the way out.
    pub fn bind(path: &Path) -> Result<Listener, BindError> {
        let shown = path.display();
        let fail = |what: &str, e: io::Error| BindError(explain(path, what, &e));
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(|e| fail("make its directory", e))?;
        }
        match fs::symlink_metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(fail("look at it", e)),
            Ok(m) if !m.file_type().is_socket() => {
                return Err(BindError(format!(
                    "{shown} is not a socket; remove it, or set node.control_socket to another \
                     path"
                )));
            }
            Ok(_) => match UnixStream::connect(path) {
                Ok(_) => {
                    return Err(BindError(format!(
                        "another daemon listens on {shown}; stop it with `ctp96 --socket {shown} \
                         stop`, or set node.control_socket to another path"
                    )));
                }
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(|e| fail("remove the stale socket", e))?;
                }
                Err(e) => return Err(fail("find out whether a daemon listens there", e)),
            },
        }
        let listener = bind_private(path).map_err(|e| fail("bind it", e))?;
        Ok(Listener {
            listener,
            path: path.to_owned(),
        })
    }

    /// Starts answering.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn serve(self, handler: Arc<dyn Handler>) -> io::Result<Server> {
        let shared = Arc::new(Shared {
            handler,
            stopping: AtomicBool::new(false),
            open: Mutex::new(Connections::default()),
            closed: Condvar::new(),
        });
        let for_thread = shared.clone();
        let listener = self.listener;
        let thread = std::thread::Builder::new()
            .name("ctp96-api".into())
            .spawn(move || accept(&listener, &for_thread))?;
        Ok(Server {
            path: self.path,
            shared,
            thread: Some(thread),
        })
    }
}

/// Binds with mode 0600 from the first moment: Linux gives the file the mode that the socket has
/// when it is bound, so it never exists with another one.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let socket = File::from(OwnedFd::from(Socket::new(
        Domain::UNIX,
        Type::STREAM,
        None,
    )?));
    socket.set_permissions(Permissions::from_mode(0o600))?;
    let socket = Socket::from(OwnedFd::from(socket));
    socket.bind(&SockAddr::unix(path)?)?;
    // Whatever the umask or another kernel made of it.
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    socket.listen(64)?;
    Ok(UnixListener::from(OwnedFd::from(socket)))
}

fn explain(path: &Path, what: &str, e: &io::Error) -> String {
    let way_out = match e.kind() {
        io::ErrorKind::PermissionDenied => {
            "; run ctp96d as root or a user that may write there, or set node.control_socket to a \
             path of its own"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "; set node.control_socket to a path on a writable file system"
        }
        _ => "",
    };
    format!(
        "control socket {}: cannot {what}: {e}{way_out}",
        path.display()
    )
}

#[derive(Default)]
struct Connections {
    next: u64,
    streams: HashMap<u64, UnixStream>,
}

struct Shared {
    handler: Arc<dyn Handler>,
    stopping: AtomicBool,
    open: Mutex<Connections>,
    closed: Condvar,
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, Connections> {
        // A panic elsewhere leaves the map usable.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A control socket that is being served. Dropping it closes every connection, waits a moment for
/// their threads, and removes the socket.
pub struct Server {
    path: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.shared.open().streams.len()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts, which looks at the flag first.
        let _ = UnixStream::connect(&self.path);
        // Gone before the thread ends: a client that comes now sees that nobody is there.
        let _ = fs::remove_file(&self.path);
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
        let mut open = self.shared.open();
        for s in open.streams.values() {
            // Readers see the end; a reply that is being written still goes out.
            let _ = s.shutdown(std::net::Shutdown::Read);
        }
        let limit = Duration::from_secs(2);
        while !open.streams.is_empty() {
            let (guard, waited) = self
                .shared
                .closed
                .wait_timeout(open, limit)
                .unwrap_or_else(PoisonError::into_inner);
            open = guard;
            if waited.timed_out() {
                break;
            }
        }
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    loop {
        let accepted = listener.accept();
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        match accepted {
            Ok((stream, _)) => admit(stream, shared),
            // Out of descriptors, most likely: others will be closed.
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn admit(mut stream: UnixStream, shared: &Arc<Shared>) {
    let _ = stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let _ = stream.set_read_timeout(Some(IDLE));
    let mut open = shared.open();
    if open.streams.len() >= MAX_CONNECTIONS {
        drop(open);
        let busy = format!("the daemon serves {MAX_CONNECTIONS} connections already; try again");
        let _ = stream.write_all(reply_line(&Err(ApiError(busy))).as_bytes());
        return;
    }
    let Ok(handle) = stream.try_clone() else {
        return;
    };
    let id = open.next;
    open.next += 1;
    open.streams.insert(id, handle);
    drop(open);
    let for_thread = shared.clone();
    let spawned = std::thread::Builder::new()
        .name("ctp96-api-conn".into())
        .spawn(move || {
            let _entry = Entry {
                id,
                shared: &for_thread,
            };
            // An error here is the client's going away.
            let _ = converse(stream, &for_thread);
        });
    if spawned.is_err() {
        shared.open().streams.remove(&id);
    }
}

/// Takes a connection off the list however its thread ends.
struct Entry<'a> {
    id: u64,
    shared: &'a Shared,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.shared.open().streams.remove(&self.id);
        self.shared.closed.notify_all();
    }
}

fn converse(stream: UnixStream, shared: &Shared) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = MAX_REQUEST_LEN as u64 + 1;
        (&mut stream).take(limit).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(());
        }
        let whole = line.last() == Some(&b'\n');
        let outcome = match parse_request(&line) {
            Ok(_) if !whole => Err(ApiError("a request ends with a newline".into())),
            Ok(request) => shared.handler.handle(request),
            Err(e) => Err(e),
        };
        stream
            .get_mut()
            .write_all(reply_line(&outcome).as_bytes())?;
        if !whole {
            // Too long, or cut short: where the next request starts cannot be known.
            return Ok(());
        }
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
