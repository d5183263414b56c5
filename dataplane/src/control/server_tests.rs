use super::*;
use crate::control::api::{DoneReply, SendReply};
use crate::control::client::{Client, ClientError};

/// Says which request came; `stop` is refused.
struct Echo;

impl Handler for Echo {
    fn handle(&self, request: Request) -> Result<Reply, ApiError> {
        match request {
            Request::Cancel { id } => Ok(Reply::Send(SendReply { id })),
            Request::Stop => Err(ApiError("not today".into())),
            _ => Ok(Reply::Done(DoneReply {})),
        }
    }
}

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("ctp96-api-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("temporary directory");
        Dir(dir)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("run/control.sock")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn serve(path: &Path) -> Server {
    Listener::bind(path)
        .expect("binds")
        .serve(Arc::new(Echo))
        .expect("serves")
}

#[test]
fn requests_and_replies_go_round() {
    let dir = Dir::new("round");
    let server = serve(&dir.socket());
    let mode = fs::metadata(dir.socket())
        .expect("the socket is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut client = Client::connect(&dir.socket()).expect("connects");
    for id in [1, u64::MAX] {
        let reply: SendReply = client.call(&Request::Cancel { id }).expect("an answer");
        assert_eq!(reply.id, id);
    }
    let refused = client
        .call::<DoneReply>(&Request::Stop)
        .expect_err("refused");
    assert!(matches!(refused, ClientError::Refused(e) if e.0 == "not today"));
    let _: DoneReply = client
        .call(&Request::Jobs)
        .expect("the connection still serves");
    drop(server);
    assert!(matches!(
        client.call::<DoneReply>(&Request::Jobs),
        Err(ClientError::Unreachable(_))
    ));
    let gone = Client::connect(&dir.socket())
        .err()
        .expect("no daemon")
        .to_string();
    assert!(gone.contains("is ctp96d running?"), "{gone}");
}

#[test]
fn bad_lines_are_answered_and_do_not_end_the_connection() {
    let dir = Dir::new("bad");
    let _server = serve(&dir.socket());
    let mut stream = UnixStream::connect(dir.socket()).expect("connects");
    let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
    let mut say = |text: &[u8]| {
        stream.write_all(text).expect("the daemon reads");
        lines.next().expect("a line").expect("valid text")
    };
    assert!(say(b"\n").contains("\"ok\":false"));
    assert!(say(b"{\"op\":\"stat\xff\"}\n").contains("\"ok\":false"));
    assert!(say(b"{\"op\":\"jbos\"}\n").contains("did you mean `jobs`?"));
    assert_eq!(say(b"{\"op\":\"jobs\"}\n"), "{\"ok\":true}");
    // Only a line without an end closes it.
    let endless = vec![b' '; MAX_REQUEST_LEN + 1];
    assert!(say(&endless).contains("\"ok\":false"));
    assert!(lines.next().is_none_or(|l| l.is_err()));
}

#[test]
fn a_living_socket_is_kept_and_a_dead_one_replaced() {
    let dir = Dir::new("stale");
    let path = dir.socket();
    let server = serve(&path);
    let e = Listener::bind(&path).err().expect("in use").to_string();
    assert!(e.contains("another daemon listens"), "{e}");
    drop(server);
    // A daemon that was killed leaves its socket behind.
    drop(bind_private(&path).expect("binds"));
    assert!(path.exists());
    let dead = Client::connect(&path)
        .err()
        .expect("nobody there")
        .to_string();
    assert!(dead.contains("left its socket behind"), "{dead}");
    drop(serve(&path));
    fs::write(&path, "precious").expect("writes");
    let e = Listener::bind(&path).err().expect("a file").to_string();
    assert!(e.contains("is not a socket"), "{e}");
    assert_eq!(fs::read(&path).expect("still there"), b"precious");
}

#[test]
fn connections_are_limited() {
    let dir = Dir::new("limit");
    let server = serve(&dir.socket());
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut c = Client::connect(&dir.socket()).expect("connects");
        let _: DoneReply = c.call(&Request::Jobs).expect("served");
        clients.push(c);
    }
    assert_eq!(server.connections(), MAX_CONNECTIONS);
    let mut late = Client::connect(&dir.socket()).expect("connects");
    let e = late
        .call::<DoneReply>(&Request::Jobs)
        .expect_err("over the limit")
        .to_string();
    assert!(
        e.contains("connections already") || e.contains("broke"),
        "{e}"
    );
    drop(clients.pop());
    // Its thread notices when it gets to run; the next client is served then.
    loop {
        let mut c = Client::connect(&dir.socket()).expect("connects");
        if c.call::<DoneReply>(&Request::Jobs).is_ok() {
            break;
        }
        std::thread::yield_now();
    }
}
