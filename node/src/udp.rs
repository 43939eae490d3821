//! Requests and replies in datagrams (protocol.txt, "UDP protocol").

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use larder_protocol::udp;
use tokio::net::UdpSocket;

use crate::connection::work_on_datagram;
use crate::counters::Counters;
use crate::output::Output;
use crate::server::Shared;
use crate::settings::Settings;

/// Binds the UDP port, where there is one, on the hosts that TCP listens on.
pub(crate) fn bind(settings: &Settings, needs_user: bool, tcp: &[SocketAddr]) -> io::Result<Vec<std::net::UdpSocket>> {
    if settings.udp_port == 0 {
        return Ok(Vec::new());
    }
    if needs_user {
        return Err(io::Error::other("UDP (-U) cannot ask for a user: leave out -U, or -Y and -S"));
    }
    let addresses: Vec<SocketAddr> = match tcp {
        [] => ("127.0.0.1", settings.udp_port).to_socket_addrs()?.collect(),
        tcp => tcp.iter().map(|address| SocketAddr::new(address.ip(), settings.udp_port)).collect(),
    };
    let bind = |address| {
        let socket = std::net::UdpSocket::bind(address)
            .map_err(|error| io::Error::new(error.kind(), format!("failed to bind UDP {address}: {error}")))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    addresses.into_iter().map(bind).collect()
}

/// Largest datagram there is.
const DATAGRAM_MAX: usize = 65_536;

/// Answers datagrams until the worker ends.
pub(crate) async fn serve(socket: std::net::UdpSocket, shared: Arc<Shared>, counters: Arc<Counters>) {
    let Ok(socket) = UdpSocket::from_std(socket) else { return };
    let mut datagram = vec![0; DATAGRAM_MAX];
    let mut output = Output::default();
    loop {
        let Ok((len, from)) = socket.recv_from(&mut datagram).await else { continue };
        counters.bytes_read.add(len as u64);
        // What has no header has nobody to answer.
        let Some((frame, request)) = udp::decode_request(&datagram[..len]) else { continue };
        output.clear();
        match request {
            Ok(payload) => work_on_datagram(payload, socket.as_raw_fd(), &shared, &counters, &mut output),
            Err(error) => error.encode(&mut output.bytes),
        }
        let reply = output.to_vec();
        for (header, part) in udp::frames(frame.request_id, &reply) {
            let sent = socket.send_to(&[&header[..], part].concat(), from).await;
            counters.bytes_written.add(sent.unwrap_or(0) as u64);
        }
    }
}
