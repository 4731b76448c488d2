//! [`Name`]: the name of a server, and where it leads as far as that is known. Who asks is `resolve.rs`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::watch;

/// A name, and the addresses that it has; shared by all servers of that name and by who looks it up.
#[derive(Debug)]
pub(crate) struct Name {
    /// In lower case.
    pub(super) host: Box<str>,
    /// Name servers that are asked; the system's if empty.
    pub(super) dns: Arc<[SocketAddr]>,
    known: watch::Sender<Known>,
}

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Nobody has answered yet.
    Asked,
    /// Some addresses, in order.
    At(Arc<[IpAddr]>),
    /// None, and why.
    Nowhere(Arc<str>),
}

impl Name {
    /// To be looked up there. `before` is the same name under other circumstances: what is known of it stays known.
    pub(super) fn new(host: Box<str>, dns: Arc<[SocketAddr]>, before: Option<&Self>) -> Self {
        let known = before.map_or(Known::Asked, Self::known);
        Self { host, dns, known: watch::Sender::new(known) }
    }

    /// What is known now.
    pub(super) fn known(&self) -> Known {
        self.known.borrow().clone()
    }

    /// Where it leads, if that is known.
    pub(super) fn addresses(&self) -> Option<Arc<[IpAddr]>> {
        match &*self.known.borrow() {
            Known::At(addresses) => Some(Arc::clone(addresses)),
            Known::Asked | Known::Nowhere(_) => None,
        }
    }

    /// From now on that is known. Returns whether it is new.
    pub(super) fn learn(&self, known: Known) -> bool {
        self.known.send_if_modified(|before| {
            let is_new = *before != known;
            *before = known;
            is_new
        })
    }

    /// Where it leads. Waits for the first answer, whoever gets it; nobody asks because of that.
    ///
    /// # Errors
    /// When it leads nowhere.
    pub(super) async fn found(&self) -> io::Result<Arc<[IpAddr]>> {
        let mut changes = self.known.subscribe();
        let known = changes.wait_for(|known| *known != Known::Asked).await.map_err(io::Error::other)?;
        match &*known {
            Known::At(addresses) => Ok(Arc::clone(addresses)),
            Known::Nowhere(why) => Err(io::Error::new(io::ErrorKind::NotFound, why.to_string())),
            Known::Asked => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_answer_is_waited_for_and_what_is_known_is_handed_on() {
        let name = Name::new("a".into(), Arc::default(), None);
        let addresses: Arc<[IpAddr]> = Arc::new([IpAddr::from([192, 0, 2, 1])]);
        let (found, _) = tokio::join!(name.found(), async { name.learn(Known::At(Arc::clone(&addresses))) });
        assert_eq!(found.unwrap(), addresses);
        assert!(!name.learn(Known::At(Arc::clone(&addresses))), "it is known already");
        let dns = Arc::new([SocketAddr::from(([192, 0, 2, 53], 53))]);
        assert_eq!(Name::new("a".into(), dns, Some(&name)).addresses(), Some(addresses));
        assert!(name.learn(Known::Nowhere("no such name".into())));
        assert_eq!(name.found().await.unwrap_err().to_string(), "no such name");
        assert_eq!(name.addresses(), None);
    }
}
