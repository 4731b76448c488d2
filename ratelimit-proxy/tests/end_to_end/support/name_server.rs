//! A name server that says what a test tells it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::sync::watch;

/// What is said of a name.
#[derive(Clone, Debug)]
pub enum Says {
    /// These addresses, good for so many seconds.
    At(Vec<IpAddr>, u32),
    /// There is no such name.
    NoSuchName,
    /// It has trouble of its own.
    Trouble,
    /// Nothing, for ever.
    Nothing,
    /// Nothing yet: the answer is another thing that it will say.
    Later,
}

impl Says {
    pub fn at(addresses: &[[u8; 4]], ttl: u32) -> Self {
        Self::At(addresses.iter().map(|octets| IpAddr::from(*octets)).collect(), ttl)
    }
}

/// A running name server.
pub struct NameServer {
    pub address: SocketAddr,
    zone: watch::Sender<HashMap<String, Says>>,
    asked: Arc<Mutex<HashMap<String, usize>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl NameServer {
    /// Names are in lower case, without a dot at the end.
    pub async fn start(zone: &[(&str, Says)]) -> Self {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = socket.local_addr().unwrap();
        let zone = zone.iter().map(|(name, says)| ((*name).to_owned(), says.clone())).collect();
        let (zone, asked) = (watch::Sender::new(zone), Arc::<Mutex<HashMap<_, _>>>::default());
        let (known, counts) = (zone.clone(), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            let mut packet = [0; 1500];
            loop {
                // An error is word that somebody did not wait for an answer.
                let Ok((length, from)) = socket.recv_from(&mut packet).await else { continue };
                let Some(question) = Question::of(&packet[..length]) else { continue };
                *counts.lock().unwrap().entry(question.name.clone()).or_insert(0) += 1;
                let (socket, mut known) = (Arc::clone(&socket), known.subscribe());
                tokio::spawn(async move {
                    let said = |zone: &HashMap<String, Says>| {
                        zone.get(&question.name).cloned().unwrap_or(Says::NoSuchName)
                    };
                    let later = |zone: &HashMap<String, Says>| matches!(said(zone), Says::Later);
                    let says = known.wait_for(|zone| !later(zone)).await.map(|zone| said(&zone));
                    let Ok(says) = says else { return };
                    if let Some(answer) = question.answer(&says) {
                        let _ = socket.send_to(&answer, from).await;
                    }
                });
            }
        });
        Self { address, zone, asked, task }
    }

    /// From now on that is what it says.
    pub fn say(&self, name: &str, says: Says) {
        self.zone.send_modify(|zone| {
            zone.insert(name.to_owned(), says);
        });
    }

    /// Questions for that name so far, for each family of addresses one.
    pub fn asked(&self, name: &str) -> usize {
        self.asked.lock().unwrap().get(name).copied().unwrap_or(0)
    }
}

/// RFC 1035, §4.
struct Question {
    name: String,
    kind: u8,
    id: [u8; 2],
    /// As it came.
    bytes: Vec<u8>,
}

impl Question {
    fn of(packet: &[u8]) -> Option<Self> {
        let (mut at, mut labels) = (12, Vec::new());
        loop {
            let length = usize::from(*packet.get(at)?);
            if length == 0 {
                break;
            }
            labels.push(String::from_utf8_lossy(packet.get(at + 1..at + 1 + length)?).to_lowercase());
            at += 1 + length;
        }
        let bytes = packet.get(12..at + 5)?.to_vec();
        Some(Self { name: labels.join("."), kind: *packet.get(at + 2)?, id: [packet[0], packet[1]], bytes })
    }

    /// The question, and a record for each address.
    fn answer(&self, says: &Says) -> Option<Vec<u8>> {
        let (addresses, ttl, code) = match says {
            Says::At(addresses, ttl) => (addresses.as_slice(), *ttl, 0),
            Says::NoSuchName => (&[][..], 0, 3),
            Says::Trouble => (&[][..], 0, 2),
            Says::Nothing | Says::Later => return None,
        };
        let records: Vec<_> = addresses
            .iter()
            .filter_map(|address| match (address, self.kind) {
                (IpAddr::V4(address), 1) => Some(address.octets().to_vec()),
                (IpAddr::V6(address), 28) => Some(address.octets().to_vec()),
                _ => None,
            })
            .collect();
        let mut packet = self.id.to_vec();
        packet.extend([0x81, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
        packet.extend(&self.bytes);
        for record in records {
            // The name of the question, in class IN.
            packet.extend([0xc0, 12, 0, self.kind, 0, 1]);
            packet.extend(ttl.to_be_bytes());
            packet.extend([0, record.len() as u8]);
            packet.extend(record);
        }
        Some(packet)
    }
}
