//! The edge's link to one core: a standing wish, met again after every loss.
//!
//! The link is current while the core is heard. When it falls silent new connections go direct, and a new connection
//! is tried beside the silent one: whichever is first carries the next flows, and the old one keeps those it has until
//! the transport gives it up ([`DEAD_AFTER`](super::session::DEAD_AFTER)).

use std::time::Duration;

use quinn::Endpoint;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::session::Hearing;
use super::{Hello, Link, LinkError, transport};
use crate::drain::Drain;
use crate::metrics::Metrics;

/// The edge's link to one core, made again whenever it is lost.
#[derive(Debug, Clone)]
pub struct CoreLink {
    current: watch::Receiver<Option<Link>>,
}

/// What it takes to make a link to a core.
#[derive(Debug, Clone)]
pub struct CoreLinkSettings {
    /// `host:port` of the core.
    pub core: String,
    /// The name the core's certificate must have.
    pub server_name: &'static str,
    /// Certificates and transport.
    pub client: quinn::ClientConfig,
    /// What to say.
    pub hello: Hello,
}

impl CoreLink {
    /// Starts to keep a link.
    #[must_use]
    pub fn start(settings: CoreLinkSettings, metrics: Metrics, drain: &Drain) -> Self {
        let (sender, current) = watch::channel(None);
        let tasks = drain.clone();
        drain.spawn("core link", async move {
            let stopping = tasks.stopping().clone();
            stopping.run_until_cancelled(keep_link(settings, &sender, &metrics, &tasks)).await;
        });
        Self { current }
    }

    /// Returns the link if it stands and the core was heard lately.
    #[must_use]
    pub fn current(&self) -> Option<Link> {
        self.current.borrow().clone().filter(|link| link.hearing() != Hearing::Lost)
    }

    /// Waits for the next link after the last one that was returned here, or for the first.
    pub async fn next(&mut self) -> Link {
        loop {
            if self.current.changed().await.is_err() {
                // The edge stops, and so does whoever waits.
                std::future::pending::<()>().await;
            }
            if let Some(link) = self.current.borrow_and_update().clone() {
                return link;
            }
        }
    }

    /// Waits until there is a link.
    pub async fn up(&mut self) {
        let _ = self.current.wait_for(Option::is_some).await;
    }
}

async fn keep_link(
    settings: CoreLinkSettings,
    current: &watch::Sender<Option<Link>>,
    metrics: &Metrics,
    drain: &Drain,
) {
    let core = settings.core.clone();
    let mut link = connect_until_up(&settings, metrics, drain).await;
    loop {
        info!(core, rtt_ms = link.rtt().as_millis(), "link is up");
        metrics.links_up.inc();
        current.send_replace(Some(link.clone()));
        link.unheard().await;
        metrics.links_up.dec();
        current.send_replace(None);
        warn!(core, "core is not heard; new connections go direct");
        let silent = link;
        link = tokio::select! {
            link = connect_until_up(&settings, metrics, drain) => {
                drain.spawn("old link", async move { silent.retire().await });
                link
            }
            () = heard_again(&silent) => silent.clone(),
        };
    }
}

async fn heard_again(link: &Link) {
    let mut hearing = link.0.hearing.subscribe();
    let heard = hearing.wait_for(|hearing| *hearing != Hearing::Lost).await.is_ok();
    if !heard || link.hearing() == Hearing::Lost {
        std::future::pending::<()>().await;
    }
}

async fn connect_until_up(settings: &CoreLinkSettings, metrics: &Metrics, drain: &Drain) -> Link {
    let mut wait = RETRY_MIN;
    let mut told = false;
    loop {
        match connect(settings, metrics, drain).await {
            Ok(link) => {
                let answering = link.clone();
                let tasks = drain.clone();
                drain.spawn("core's fetches", async move {
                    // The connection's end is reported by whoever watches the connection.
                    let _ = answering.answer_core(&tasks).await;
                });
                let watched = link.clone();
                let core = settings.core.clone();
                drain.spawn("link", async move {
                    let reason = watched.watch_liveness().await;
                    debug!(core, %reason, "connection ended");
                });
                return link;
            }
            Err(error) if !told => {
                told = true;
                warn!(core = settings.core, error = &error as &dyn std::error::Error, "no link");
            }
            Err(error) => {
                debug!(core = settings.core, error = &error as &dyn std::error::Error, "no link yet");
            }
        }
        sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}

async fn connect(settings: &CoreLinkSettings, metrics: &Metrics, drain: &Drain) -> Result<Link, LinkError> {
    let core = &settings.core;
    let address = tokio::net::lookup_host(core)
        .await
        .map_err(|error| LinkError::Resolve(core.clone(), error))?
        .next()
        .ok_or_else(|| LinkError::NoAddress(core.clone()))?;
    // A socket of its own for each attempt: a new local port gets past a firewall that lost its state.
    let endpoint: Endpoint = transport::bind_client(address.is_ipv6(), metrics)
        .map_err(|error| LinkError::Resolve(core.clone(), error))?;
    let attempt = async {
        let connection = endpoint
            .connect_with(settings.client.clone(), address, settings.server_name)
            .map_err(|error| LinkError::Connect(address, error))?
            .await?;
        Link::greet(connection, settings.hello, drain).await
    };
    timeout(CONNECT_DEADLINE, attempt).await.map_err(|_| LinkError::TimedOut(CONNECT_DEADLINE))?
}

/// How long a connection with its hello may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// Pause between attempts, doubled after each.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);
