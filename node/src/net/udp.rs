//! Requests and replies in datagrams (protocol.txt, "UDP protocol").

use std::sync::Arc;

use larder_protocol::{Protocol, udp};
use tokio::net::UdpSocket;

use crate::net::open_sockets::{OpenSocket, Transport};
use crate::net::output::Output;
use crate::net::session::work_on_datagram;
use crate::shared::Shared;
use crate::statistics::counters::Counters;

/// Largest datagram there is.
const DATAGRAM_MAX: usize = 65_536;

/// Serves datagrams until the worker ends.
pub(crate) async fn serve(
    socket: std::net::UdpSocket,
    protocol: Option<Protocol>,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
) {
    let Ok(socket) = UdpSocket::from_std(socket) else { return };
    let open = OpenSocket::listening(&socket, Transport::Udp, socket.local_addr().ok(), shared.clock.now());
    let mut datagram = vec![0; DATAGRAM_MAX];
    let mut output = Output::default();
    loop {
        let Ok((len, from)) = socket.recv_from(&mut datagram).await else { continue };
        counters.bytes_read.add(len as u64);
        // A datagram without a header has no request id to reply to.
        let Some((frame, request)) = udp::decode_request(&datagram[..len]) else { continue };
        output.clear();
        match request {
            Ok(payload) => work_on_datagram(payload, protocol, &open, &shared, &counters, &mut output),
            Err(error) => error.encode(&mut output.bytes),
        }
        let reply = output.to_vec();
        for (header, part) in udp::frames(frame.request_id, &reply) {
            let sent = socket.send_to(&[&header[..], part].concat(), from).await;
            counters.bytes_written.add(sent.unwrap_or(0) as u64);
        }
    }
}
