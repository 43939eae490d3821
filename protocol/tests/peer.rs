//! The frames between nodes: what is written is read again, nothing that arrives is too much, and views merge in any
//! order.

use std::collections::BTreeMap;

use larder_protocol::Protocol;
use larder_protocol::peer::{
    BatchWriter, Founding, FrameError, Greeting, HEADER_LEN, Member, Message, Moved, Purpose, State, Status, View,
    decode,
};
use proptest::prelude::*;

fn state() -> impl Strategy<Value = State> {
    prop_oneof![Just(State::Joining), Just(State::Active), Just(State::Leaving), Just(State::Gone)]
}

fn member() -> impl Strategy<Value = Member> {
    (1..4u32, state(), 0..2u8, 0..2u16).prop_map(|(generation, state, slot, port)| Member {
        generation,
        state,
        slot,
        host: format!("10.0.0.{slot}"),
        port,
        name: "node.example".to_owned(),
        peer: format!("10.0.0.{slot}:{port}"),
    })
}

prop_compose! {
    fn view()(
        second in 0..3u32,
        token in 0..2u32,
        base in 0..3u32,
        members in prop::collection::btree_map("[a-c]", member(), 0..4),
    ) -> View {
        View { founding: Founding { second, token }, base, members }
    }
}

prop_compose! {
    /// A view and one that the same cluster came to later.
    fn change()(view in view(), steps in prop::collection::vec(("[a-d]", member()), 1..5)) -> (View, View) {
        let members: BTreeMap<String, Member> = steps.into_iter().collect();
        let later = view.merge(&View { members, ..view.clone() });
        (view, later)
    }
}

proptest! {
    #[test]
    fn views_merge_in_any_order_and_any_number_of_times(a in view(), b in view(), c in view()) {
        prop_assert_eq!(a.merge(&b), b.merge(&a));
        prop_assert_eq!(a.merge(&b).merge(&c), a.merge(&b.merge(&c)));
        prop_assert_eq!(a.merge(&a), a.clone());
        prop_assert!(a.merge(&b).covers(&a) && a.merge(&b).covers(&b));
        prop_assert_eq!(a.covers(&b), a.merge(&b) == a);
    }

    #[test]
    fn the_number_of_a_list_grows_with_every_change_of_a_member((before, after) in change()) {
        let states = |view: &View| -> Vec<_> {
            view.members.iter().map(|(id, member)| (id.clone(), member.generation, member.state)).collect()
        };
        prop_assert!(after.version() >= before.version());
        prop_assert_eq!(after.version() > before.version(), states(&after) != states(&before));
    }

    #[test]
    fn a_view_is_read_as_it_was_written(view in view(), id in any::<u32>()) {
        let mut bytes = Vec::new();
        Message::View(view.clone()).encode(id, &mut bytes);
        let (frame, consumed) = decode(&bytes, bytes.len()).unwrap().unwrap();
        prop_assert_eq!((frame.id, frame.message, consumed), (id, Message::View(view), bytes.len()));
    }

    #[test]
    fn whatever_arrives_is_a_frame_or_refused_or_waited_for(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&bytes);
    }

    /// Random bytes rarely come past the header.
    #[test]
    fn whatever_follows_a_right_header_is_a_frame_or_refused(
        kind in 0..20u8,
        protocol in 0..2u8,
        payload in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = (payload.len() as u32).to_le_bytes().to_vec();
        bytes.extend([kind, protocol, 0, 0, 1, 2, 3, 4]);
        bytes.extend(payload);
        check(&bytes);
    }

    #[test]
    fn items_travel_in_batches(items in prop::collection::vec(
        (prop::collection::vec(any::<u8>(), 0..=250), any::<u32>(), prop::option::of(0..1000u32), any::<bool>(),
         any::<u8>(), prop::collection::vec(any::<u8>(), 0..100)),
        0..8,
    )) {
        let items: Vec<Moved<'_>> = items
            .iter()
            .map(|&(ref key, flags, ttl, stale, past, ref value)| Moved { key, flags, ttl, stale, past, value })
            .collect();
        let mut bytes = Vec::new();
        let mut batch = BatchWriter::begin(7, &mut bytes);
        items.iter().for_each(|item| batch.push(item));
        batch.end();
        let Some((frame, _)) = decode(&bytes, 1 << 20).unwrap() else { panic!("a whole frame") };
        let Message::Pulled(batch) = frame.message else { panic!("a batch") };
        prop_assert_eq!(batch.iter().collect::<Vec<_>>(), items);
    }
}

/// What is decoded is encoded to the same bytes.
fn check(bytes: &[u8]) {
    if let Ok(Some((frame, consumed))) = decode(bytes, 1 << 16) {
        let mut again = Vec::new();
        frame.message.encode(frame.id, &mut again);
        let (same, _) = decode(&again, 1 << 16).unwrap().unwrap();
        assert_eq!(same, frame);
        // A view may arrive with an id twice, of which one is kept.
        assert!(again == bytes[..consumed] || matches!(frame.message, Message::View(_)));
    }
}

fn messages() -> Vec<Message<'static>> {
    let greeting = Greeting {
        purpose: Purpose::Forward,
        cluster: "shop",
        id: "larder-0",
        nonce: [7; 16],
        process: 9,
        settings: "ketama",
    };
    let item = Moved { key: b"k", flags: 1, ttl: Some(5), stale: true, past: 70, value: b"v" };
    vec![
        Message::Hello(greeting.clone()),
        Message::Welcome(greeting, [3; 32]),
        Message::Proof([4; 32]),
        Message::Refused("another cluster"),
        Message::View(View::default()),
        Message::Ping(Status { settled: true, cpu: 0.5, ..Status::default() }),
        Message::Pong(Status::default()),
        Message::Ask { protocol: Protocol::Binary, milliseconds: 500, request: b"get a\r\n" },
        Message::Answer(b"END\r\n"),
        Message::NotMine,
        Message::Take { key: b"key" },
        Message::Taken(None),
        Message::Taken(Some(item)),
        Message::Pull { idle: 60, bytes: 65_536 },
        Message::Done,
        Message::Forget { id: "larder-1" },
        Message::Drain,
        Message::Told("forgotten"),
    ]
}

#[test]
fn every_message_is_read_as_it_was_written_however_it_is_cut() {
    for message in messages() {
        let mut bytes = Vec::new();
        message.encode(42, &mut bytes);
        let (frame, consumed) = decode(&bytes, 1 << 16).unwrap().unwrap();
        assert_eq!((frame.id, &frame.message, consumed), (42, &message, bytes.len()));
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut], 1 << 16), Ok(None), "{message:?} cut to {cut} bytes");
        }
        assert_eq!(decode(&bytes, 1 << 16).unwrap().unwrap().1, bytes.len());
    }
}

#[test]
fn a_length_above_the_limit_is_refused_by_its_header_alone() {
    let mut bytes = u32::MAX.to_le_bytes().to_vec();
    bytes.extend([9, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes.len(), HEADER_LEN);
    assert_eq!(decode(&bytes, 1024), Err(FrameError::TooLong { len: u32::MAX as usize, limit: 1024 }));
}
