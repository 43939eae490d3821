//! The same commands over UDP, one in each datagram.

use std::net::UdpSocket;

use larder_protocol::udp::{self, Frame};
use larder_tests::{PATIENCE, Server};

/// The marker that follows each command, because a quiet one has no reply.
const MARKER: &[u8] = b"mn\r\n";

/// A socket that is connected to a server's UDP port.
pub(super) struct Datagrams {
    socket: UdpSocket,
    request_id: u16,
}

impl Datagrams {
    pub(super) fn connect(server: &Server) -> Datagrams {
        let [_, udp] = *server.ports() else { panic!("a TCP and a UDP port") };
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
        socket.connect(("127.0.0.1", udp)).expect("loopback");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out that is not zero");
        Datagrams { socket, request_id: 0 }
    }

    /// Sends a command and the marker, and returns the reply to the command.
    ///
    /// Datagrams are joined as they arrive, which is in order on loopback: memcached sends each item of a retrieval and
    /// its `END` as a message of its own.
    pub(super) fn answer(&mut self, command: &str) -> Vec<u8> {
        let [command_id, marker_id] = [command.as_bytes(), MARKER].map(|payload| self.send(payload));
        let mut answer = Vec::new();
        let mut datagram = [0; 2000];
        loop {
            let len = self.socket.recv(&mut datagram).expect("the server answers in time");
            let (frame, payload) = udp::decode(&datagram[..len]).expect("a header");
            if frame.request_id == marker_id {
                assert_eq!(payload, b"MN\r\n");
                return answer;
            }
            assert_eq!(frame.request_id, command_id);
            answer.extend_from_slice(payload);
        }
    }

    fn send(&mut self, payload: &[u8]) -> u16 {
        self.request_id = self.request_id.wrapping_add(1);
        let header = Frame { request_id: self.request_id, sequence: 0, total: 1 }.encode();
        self.socket.send(&[&header[..], payload].concat()).expect("loopback takes a datagram");
        self.request_id
    }
}
