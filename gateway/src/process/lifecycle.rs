//! The life of the `gateway` process: it opens or inherits listeners, reloads the configuration on
//! SIGHUP, and starts a successor on SIGUSR2.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use net::{BindError, HangUp, bind, bind_shared, exit_code, notify_systemd, raise_open_files};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::config::settings::{AdminAddress, DEFAULT_ADMIN, Settings};
use crate::config::settings_error::SettingsError;
use crate::downstream::tls::Tls;
use crate::process::pid_file;
use crate::process::serve::{Listeners, Stop, serve_all};
use crate::process::upgrade::{self, Inherited, ListenerKind, NewProcess, OldProcess};

/// Descriptors that belong neither to clients nor to connections to servers.
const OTHER_DESCRIPTORS: u64 = 100;
/// A gateway whose operator has set no limit, and that can serve as many clients, needs no warning.
const FEW_CLIENTS: usize = 1000;
/// How long stopping may take after the drain has ended or timed out.
const MAX_END_TIME: Duration = Duration::from_secs(5);
/// While the file is being read, the log says so each time that this time has passed.
const SLOW_READ_AFTER: Duration = Duration::from_secs(10);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Serves until a signal. `read` reads the present settings, and is called at each SIGHUP. Without
/// it there is no file that could be read again.
pub(crate) async fn run(
    settings: Settings,
    read: Option<impl Fn() -> Result<Settings, SettingsError> + Send + Sync + 'static>,
) -> ExitCode {
    match run_inner(settings, read).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => exit_code(&*failure),
    }
}

async fn run_inner(
    mut settings: Settings,
    read: Option<impl Fn() -> Result<Settings, SettingsError> + Send + Sync + 'static>,
) -> Result<(), BoxError> {
    let wanted_connections = settings.config.max_connections;
    limit_to_open_files(&mut settings.config);
    let (predecessor, inherited) = upgrade::inherit()?.map_or((None, Vec::new()), |(old, list)| (Some(old), list));
    let mut upgrades = signal(SignalKind::user_defined2())?;
    let (sender, config) = watch::channel(Arc::new(settings.config.clone()));
    let running = Arc::new((settings, wanted_connections));
    let bounds = config.clone();
    let max_stop_time = move || bounds.borrow().drain_timeout + MAX_END_TIME;
    let (hung_up, outlives_terminal, has_file) =
        (Arc::new(Notify::new()), upgrade::outlives_terminal(), read.is_some());
    let reloads = AbortOnDropHandle::new(tokio::spawn({
        let (hung_up, sender) = (Arc::clone(&hung_up), sender.clone());
        reload_on_hang_ups(hung_up, read.map(Arc::new), Arc::clone(&running), sender)
    }));
    let survives = move |hang_up| {
        let survives = outlives_terminal || is_survived(hang_up, has_file);
        if survives {
            hung_up.notify_one();
        }
        survives
    };
    // Signals are handled before the ports open: a program that can connect can also stop this one
    // in order.
    let stop = Stop { drain: net::stop_on_signals_unless(max_stop_time, survives)?, ..Stop::default() };
    let listeners = open_listeners(&running.0, inherited)?;
    let copies = duplicate(&listeners)?;
    let hand_over = AbortOnDropHandle::new(tokio::spawn({
        let stop = stop.clone();
        async move { hand_over_on_signals(&mut upgrades, copies, outlives_terminal, &stop).await }
    }));
    let ready = predecessor.map(|predecessor| {
        let (ready, is_ready) = oneshot::channel();
        let pid_file = running.0.process.pid_file.clone();
        tokio::spawn(async move {
            if is_ready.await.is_err() {
                return;
            }
            OldProcess::ready(predecessor);
            // The old process removes its own file, if that is another or has still its own id.
            if let Some(Err(error)) = pid_file.map(|path| pid_file::write(&path, std::process::id())) {
                error!("{error}");
            }
        });
        ready
    });
    // The listeners are open: from now on no client is refused. A new process is announced by the
    // one that it replaces.
    if ready.is_none() {
        if let Some(path) = &running.0.process.pid_file {
            pid_file::write(path, std::process::id())?;
        }
        notify_systemd("READY=1");
    }
    serve_all(Listeners { ready, ..listeners }, config, stop).await?;
    drop((reloads, hand_over, sender));
    if let Some(path) = &running.0.process.pid_file {
        pid_file::remove(path, std::process::id());
    }
    Ok(())
}

/// Limits the clients to the descriptors that the system gives. Each client takes two: its own, and
/// one to a server. An operator who has set no limit is warned only if these are few.
fn limit_to_open_files(config: &mut Config) {
    let descriptors = raise_open_files();
    let wanted = config.max_connections;
    let clients = clients_within(descriptors).min(wanted);
    config.max_connections = clients;
    if clients == wanted {
        return;
    }
    if wanted == Config::default().max_connections && clients >= FEW_CLIENTS {
        info!(
            descriptors,
            clients, "the limit of open files allows for fewer clients than 10000; raise LimitNOFILE or ulimit -n"
        );
    } else {
        let why = "too few descriptors for max_connections: there may be fewer clients; raise LimitNOFILE or ulimit -n";
        warn!(descriptors, wanted, clients, "{why}");
    }
}

/// The limit of clients for this number of descriptors.
fn clients_within(descriptors: u64) -> usize {
    usize::try_from(descriptors.saturating_sub(OTHER_DESCRIPTORS) / 2).unwrap_or(usize::MAX).max(1)
}

/// Listens on the addresses of the settings, with the inherited listeners of the same addresses.
fn open_listeners(settings: &Settings, inherited: Inherited) -> Result<Listeners, BoxError> {
    let mut inherited = inherited;
    let mut take = |kind: ListenerKind, address: SocketAddr| -> io::Result<Vec<TcpListener>> {
        let is_it = |(other, listener): &mut (ListenerKind, std::net::TcpListener)| {
            *other == kind && listener.local_addr().is_ok_and(|local| address.port() == 0 || local == address)
        };
        inherited.extract_if(.., is_it).map(|(_, listener)| TcpListener::from_std(listener)).collect()
    };
    let mut shared = |kind, address| match take(kind, address)? {
        none if none.is_empty() => {
            let opened = bind_shared(address, settings.process.worker_count());
            opened.map_err(|error| BoxError::from(error.set_by(kind.setting())))
        }
        some => Ok(some),
    };
    let http = shared(ListenerKind::Http, settings.process.listen)?;
    let https = settings.tls.map_or_else(|| Ok(Vec::new()), |address| shared(ListenerKind::Https, address))?;
    let address = match settings.process.admin {
        Some(AdminAddress::Off) => None,
        Some(AdminAddress::At(address)) => Some(address),
        None => Some(DEFAULT_ADMIN),
    };
    let admin = match address {
        None => None,
        Some(address) => match take(ListenerKind::Admin, address)?.pop() {
            Some(listener) => Some(listener),
            None => bind_admin(address, settings.process.admin.is_some())?,
        },
    };
    Ok(Listeners { http, https, admin, ready: None })
}

fn bind_admin(address: SocketAddr, wanted: bool) -> Result<Option<TcpListener>, BindError> {
    match bind(address) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if wanted => Err(error.set_by(ListenerKind::Admin.setting())),
        Err(error) => {
            warn!("/health and /metrics are not served: {error}; choose another address with --admin");
            Ok(None)
        }
    }
}

/// Copies of the listeners, for a successor.
fn duplicate(listeners: &Listeners) -> io::Result<Vec<(ListenerKind, OwnedFd)>> {
    let Listeners { http, https, admin, .. } = listeners;
    let all =
        http.iter().map(|one| (ListenerKind::Http, one)).chain(https.iter().map(|one| (ListenerKind::Https, one)));
    let all = all.chain(admin.iter().map(|one| (ListenerKind::Admin, one)));
    all.map(|(kind, listener)| Ok((kind, listener.as_fd().try_clone_to_owned()?))).collect()
}

/// Whether the gateway survives a SIGHUP, and then reads its file again if it has one. It does not
/// if its terminal has been closed. A gateway at a terminal and without a file treats any SIGHUP as
/// that.
fn is_survived(hang_up: HangUp, has_file: bool) -> bool {
    match hang_up {
        HangUp::TerminalClosed => false,
        HangUp::AtTerminal => has_file,
        HangUp::NoTerminal => true,
    }
}

/// Reads the file again at each SIGHUP. A disk that does not answer must not keep the gateway from
/// stopping, so the file is read by a thread that is not waited for.
async fn reload_on_hang_ups(
    hung_up: Arc<Notify>,
    read: Option<Arc<impl Fn() -> Result<Settings, SettingsError> + Send + Sync + 'static>>,
    running: Arc<(Settings, usize)>,
    sender: watch::Sender<Arc<Config>>,
) {
    loop {
        hung_up.notified().await;
        let Some(read) = read.clone() else {
            info!("SIGHUP: this gateway was started without a file, so there is nothing to read again");
            continue;
        };
        let mut is_asked_again = true;
        while std::mem::take(&mut is_asked_again) {
            let (read, running, sender) = (Arc::clone(&read), Arc::clone(&running), sender.clone());
            let mut reading = tokio::task::spawn_blocking(move || reload(read(), &running, &sender));
            loop {
                tokio::select! {
                    // A panic is in the log.
                    _ = &mut reading => break,
                    () = sleep(SLOW_READ_AFTER) => {
                        error!("the file has not been read for {SLOW_READ_AFTER:?}: a disk, \
                                or the other end of a pipe, does not answer; the earlier configuration stays in use");
                    }
                    () = hung_up.notified() => is_asked_again = true,
                }
            }
        }
    }
}

/// Applies the file as it is now, at SIGHUP, unless it has mistakes.
///
/// A file that has lost all of its routes counts as one that was cut while it was written. To
/// remove all routes, start a new process.
fn reload(
    new: Result<Settings, SettingsError>,
    (running, wanted_connections): &(Settings, usize),
    sender: &watch::Sender<Arc<Config>>,
) {
    let unusable = |wrong: &dyn std::fmt::Display| error!("{wrong}; the earlier configuration stays in use");
    let new = match new {
        Ok(new) => new,
        Err(wrong) => return wrong.lines().iter().for_each(|line| unusable(line)),
    };
    if !new.config.certificates.is_empty()
        && let Err(wrong) = Tls::new(&new.config.certificates)
    {
        return unusable(&wrong);
    }
    let before = sender.borrow().routes.len();
    if before > 0 && new.config.routes.is_empty() {
        let lost = format!(
            "the file no longer has any [[route]], and had {before}; if that is intended, start a new process (SIGUSR2)"
        );
        return unusable(&lost);
    }
    new.warnings.iter().for_each(|line| warn!("{line}"));
    let config = &running.config;
    let fixed = [
        ("listen", running.process.listen == new.process.listen),
        ("tls.listen", running.tls == new.tls),
        ("admin", running.process.admin == new.process.admin),
        ("pid_file", running.process.pid_file == new.process.pid_file),
        ("workers", running.process.workers == new.process.workers),
        ("distributor", config.distributor == new.config.distributor),
        ("advertise", config.advertise == new.config.advertise),
        ("cache", config.cache == new.config.cache),
        ("old_nodes_public", config.old_nodes_public == new.config.old_nodes_public),
        ("access_log", config.access_log == new.config.access_log),
        ("max_held_bytes", config.max_held_bytes == new.config.max_held_bytes),
        ("max_connections", *wanted_connections == new.config.max_connections),
    ];
    for (name, _) in fixed.iter().filter(|(_, is_same)| !is_same) {
        warn!("{name} has changed, which takes effect only in a new process (SIGUSR2)");
    }
    // Clients must not be redirected to a port that is not open yet.
    let redirect = if running.tls == new.tls { new.config.redirect } else { config.redirect };
    let max_connections = config.max_connections;
    sender.send_replace(Arc::new(Config { max_connections, redirect, ..new.config }));
    info!("the configuration has been reloaded");
}

/// Hands over to a new process at SIGUSR2: it serves, and this one drains.
async fn hand_over_on_signals(
    signals: &mut Signal,
    listeners: Vec<(ListenerKind, OwnedFd)>,
    outlives_terminal: bool,
    stop: &Stop,
) {
    loop {
        tokio::select! {
            biased;
            // If these listeners stayed open, they would admit clients that are never accepted.
            () = stop.drain.cancelled() => return,
            heard = signals.recv() => if heard.is_none() { return },
        }
        info!("starting a new process");
        let handed = async {
            let successor = NewProcess::start(outlives_terminal)?;
            successor.wait_ready(&listeners).await?;
            successor.release()
        };
        let handed = tokio::select! {
            biased;
            // A signal to this process stops the service: dropping the new process kills it.
            () = stop.drain.cancelled() => {
                info!("the new process was not ready yet, and is stopped too");
                return;
            }
            handed = handed => handed,
        };
        match handed {
            Ok(pid) => {
                info!(pid, "the new process is ready; this one finishes its requests");
                stop.admin.cancel();
                stop.drain.cancel();
                return;
            }
            Err(error) => error!("{error}; this process goes on"),
        }
    }
}
