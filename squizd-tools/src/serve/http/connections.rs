//! Accepting connections, and stopping.

use super::App;
use super::write_timeout::WriteTimeout;
use crate::serve::engine::Command;
use crate::serve::error::ApiError;
use crate::serve::limits::Limits;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

/// Largest header of a request; larger ones are answered with 431.
const MAX_HEADER: usize = 32 << 10;
/// Bytes that the system may hold for a client that has not taken them: how far
/// an answer may run ahead of its reader, beyond its channel.
const SEND_BUFFER: u32 = 64 << 10;
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;
/// Pause after a failure to accept, usually for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Time for the last bytes of answers that were ended.
const FLUSH: Duration = Duration::from_secs(2);

/// How the server came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// Asked once; answers had their time.
    Gracefully,
    /// Asked again; answers were cut.
    AtOnce,
}

/// Listens on the first of the host's addresses that can be had.
///
/// # Errors
/// If the host has no address, or none can be listened on.
pub(crate) async fn listen(host: &str, port: u16) -> io::Result<TcpListener> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host((host, port)).await? {
        match listen_on(address) {
            Ok(listener) => return Ok(listener),
            Err(e) => failure = e,
        }
    }
    Err(failure)
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restarted server takes its port at once (on Windows this would mean
    // sharing it with another process).
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until the process is told to stop.
pub(crate) async fn serve(
    app: Arc<App>,
    router: Router,
    listener: TcpListener,
    mut signals: Signals,
) -> Stopped {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(app.limits.connections));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = signals.next() => break,
        };
        let Ok((stream, _)) = accepted else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => connection(stream, place, &app.limits, router.clone(), &graceful),
            Err(_) => turn_away(&stream),
        }
    }
    drop(listener);
    app.stopping.store(true, Ordering::Relaxed);
    let mut rest = pin!(graceful.shutdown());
    let stopped = tokio::select! {
        () = &mut rest => return Stopped::Gracefully,
        () = sleep(app.limits.grace) => Stopped::Gracefully,
        () = signals.next() => Stopped::AtOnce,
    };
    // The engine ends what runs; its clients get the ends of their streams.
    let _ = app.engine.send(Command::Stop);
    let _ = timeout(FLUSH, rest).await;
    stopped
}

fn connection(
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    limits: &Limits,
    router: Router,
    graceful: &GracefulShutdown,
) {
    // Tokens are small and must not wait for each other.
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(WriteTimeout::new(stream, limits.write_timeout));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.read_timeout)
        .max_buf_size(MAX_HEADER)
        .serve_connection(io, TowerToHyperService::new(router));
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        // Errors here are the client's: bad HTTP, timeouts, resets.
        let _ = connection.await;
        drop(place);
    });
}

/// Answers a connection too many, as far as that needs no waiting.
fn turn_away(stream: &TcpStream) {
    let body = ApiError::busy().body().to_string();
    let response = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.try_write(response.as_bytes());
}

/// SIGINT and SIGTERM.
#[cfg(unix)]
pub(crate) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    /// From here on the signals no longer end the process; needs a runtime.
    pub(crate) fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Ctrl-C.
#[cfg(not(unix))]
pub(crate) struct Signals;

#[cfg(not(unix))]
impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
