//! Tables of exchanges: requests and the exact bytes of their answers. Debian's memcached must give the same bytes if
//! it can be installed. For features that it lacks, the program that `LARDER_MEMCACHED` names (1.6.45 or newer) must.
//!
//! A table is the life of one connection. In an expected answer, `<cas>` stands for any number.

use std::time::Instant;

use larder_tests::{PATIENCE, Server};

/// A table: requests, each with its answer.
type Exchanges = &'static [(&'static str, &'static str)];

const CLASSIC: Exchanges = &[
    ("get a\r\n", "END\r\n"),
    ("set a 5 0 3\r\nabc\r\n", "STORED\r\n"),
    ("get a\r\n", "VALUE a 5 3\r\nabc\r\nEND\r\n"),
    ("get a b a\r\n", "VALUE a 5 3\r\nabc\r\nVALUE a 5 3\r\nabc\r\nEND\r\n"),
    ("get   a   b  \r\n", "VALUE a 5 3\r\nabc\r\nEND\r\n"),
    ("get a\n", "VALUE a 5 3\r\nabc\r\nEND\r\n"),
    ("gets a\r\n", "VALUE a 5 3 <cas>\r\nabc\r\nEND\r\n"),
    ("add a 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
    ("add b 4294967295 0 1\r\nx\r\n", "STORED\r\n"),
    ("get b\r\n", "VALUE b 4294967295 1\r\nx\r\nEND\r\n"),
    ("replace c 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
    ("replace b 1 0 2\r\nyz\r\n", "STORED\r\n"),
    ("append b 9 9 1\r\n!\r\n", "STORED\r\n"),
    ("prepend b 9 9 1\r\n?\r\n", "STORED\r\n"),
    ("get b\r\n", "VALUE b 1 4\r\n?yz!\r\nEND\r\n"),
    ("append c 0 0 1\r\n!\r\n", "NOT_STORED\r\n"),
    ("prepend c 0 0 1\r\n!\r\n", "NOT_STORED\r\n"),
    ("cas c 0 0 1 1\r\nx\r\n", "NOT_FOUND\r\n"),
    ("cas a 0 0 1 99999\r\nx\r\n", "EXISTS\r\n"),
    ("set empty 0 0 0\r\n\r\n", "STORED\r\n"),
    ("get empty\r\n", "VALUE empty 0 0\r\n\r\nEND\r\n"),
    ("set lines 0 0 6\r\na\r\nb\r\n\r\n", "STORED\r\n"),
    ("get lines\r\n", "VALUE lines 0 6\r\na\r\nb\r\n\r\nEND\r\n"),
    ("set quiet 0 0 1 noreply\r\nq\r\n", ""),
    ("get quiet\r\n", "VALUE quiet 0 1\r\nq\r\nEND\r\n"),
    ("delete quiet noreply\r\n", ""),
    ("delete quiet\r\n", "NOT_FOUND\r\n"),
    ("delete a\r\n", "DELETED\r\n"),
    ("get a\r\n", "END\r\n"),
    ("set past 0 -1 1\r\nx\r\n", "STORED\r\n"),
    ("get past\r\n", "END\r\n"),
    ("set long_ago 0 2592001 1\r\nx\r\n", "STORED\r\n"),
    ("get long_ago\r\n", "END\r\n"),
    ("set later 0 2592000 1\r\nx\r\n", "STORED\r\n"),
    ("get later\r\n", "VALUE later 0 1\r\nx\r\nEND\r\n"),
    ("touch later 100\r\n", "TOUCHED\r\n"),
    ("touch nothing 100\r\n", "NOT_FOUND\r\n"),
    ("touch later -1\r\n", "TOUCHED\r\n"),
    ("get later\r\n", "END\r\n"),
    ("set g 7 0 1\r\nx\r\n", "STORED\r\n"),
    ("gat 100 g h\r\n", "VALUE g 7 1\r\nx\r\nEND\r\n"),
    ("gats 100 g\r\n", "VALUE g 7 1 <cas>\r\nx\r\nEND\r\n"),
    ("gat -1 g\r\n", "VALUE g 7 1\r\nx\r\nEND\r\n"),
    ("get g\r\n", "END\r\n"),
    ("flush_all\r\n", "OK\r\n"),
    ("get b\r\n", "END\r\n"),
    ("verbosity 0\r\n", "OK\r\n"),
];

const ARITHMETIC: Exchanges = &[
    ("incr n 1\r\n", "NOT_FOUND\r\n"),
    ("set n 3 0 2\r\n99\r\n", "STORED\r\n"),
    ("incr n 1\r\n", "100\r\n"),
    ("get n\r\n", "VALUE n 3 3\r\n100\r\nEND\r\n"),
    ("decr n 1\r\n", "99\r\n"),
    ("get n\r\n", "VALUE n 3 3\r\n99 \r\nEND\r\n"),
    ("incr n 1\r\n", "100\r\n"),
    ("decr n 1000\r\n", "0\r\n"),
    ("get n\r\n", "VALUE n 3 3\r\n0  \r\nEND\r\n"),
    ("set n 0 0 20\r\n18446744073709551615\r\n", "STORED\r\n"),
    ("incr n 2\r\n", "1\r\n"),
    ("incr n x\r\n", "CLIENT_ERROR invalid numeric delta argument\r\n"),
    ("incr n -1\r\n", "CLIENT_ERROR invalid numeric delta argument\r\n"),
    ("set n 0 0 1\r\nx\r\n", "STORED\r\n"),
    ("incr n 1\r\n", "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"),
    ("decr n 1\r\n", "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"),
    ("set n 0 0 21\r\n000000000000000000001\r\n", "STORED\r\n"),
    ("incr n 1\r\n", "2\r\n"),
    ("get n\r\n", "VALUE n 0 21\r\n2                    \r\nEND\r\n"),
];

const META: Exchanges = &[
    ("mg a v\r\n", "EN\r\n"),
    ("mg a v q\r\n", ""),
    ("ms a 3\r\nabc\r\n", "HD\r\n"),
    ("mg a\r\n", "HD\r\n"),
    ("mg a v\r\n", "VA 3\r\nabc\r\n"),
    ("mg a s v t f k Oxyz\r\n", "VA 3 s3 t-1 f0 ka Oxyz\r\nabc\r\n"),
    ("ms a 1 F7 T100 c\r\nx\r\n", "HD c<cas>\r\n"),
    ("mg a f t v\r\n", "VA 1 f7 t100\r\nx\r\n"),
    ("ms a 1 q\r\ny\r\n", ""),
    ("ms a 1 ME\r\nz\r\n", "NS\r\n"),
    ("ms a 1 MA\r\nz\r\n", "HD\r\n"),
    ("ms a 1 MP\r\nx\r\n", "HD\r\n"),
    ("mg a v\r\n", "VA 3\r\nxyz\r\n"),
    ("ms none 1 MR\r\nz\r\n", "NS\r\n"),
    ("ms none 1 MA\r\nz\r\n", "NS\r\n"),
    ("ms a 1 C99999\r\nz\r\n", "EX\r\n"),
    ("ms missing 1 C1\r\nz\r\n", "NF\r\n"),
    ("ms a 1 k O9 MS\r\nz\r\n", "HD ka O9\r\n"),
    ("ms a 1 MX\r\nz\r\n", "CLIENT_ERROR invalid mode for ms M token\r\n"),
    ("md a C99999\r\n", "EX\r\n"),
    ("md a q\r\n", ""),
    ("md a\r\n", "NF\r\n"),
    ("md a k O5\r\n", "NF ka O5\r\n"),
    // Vivify: the first caller wins, the next learns that somebody has won.
    ("mg lease v t N30\r\n", "VA 0 t-1 W\r\n\r\n"),
    ("mg lease v t N30\r\n", "VA 0 t30 Z\r\n\r\n"),
    ("ms lease 3 T60\r\nabc\r\n", "HD\r\n"),
    ("mg lease v R30\r\n", "VA 3\r\nabc\r\n"),
    ("mg lease v R100\r\n", "VA 3 W\r\nabc\r\n"),
    ("mg lease v R100\r\n", "VA 3 Z\r\nabc\r\n"),
    // Stale: the first caller wins, and a lower CAS unique stores a stale value.
    ("md lease I T30\r\n", "HD\r\n"),
    ("mg lease v t\r\n", "VA 3 t30 X W\r\nabc\r\n"),
    ("mg lease v\r\n", "VA 3 Z X\r\nabc\r\n"),
    ("ms lease 2 C1 I\r\nhi\r\n", "HD\r\n"),
    ("mg lease v\r\n", "VA 2 Z X\r\nhi\r\n"),
    ("ms lease 2\r\nhi\r\n", "HD\r\n"),
    ("mg lease v\r\n", "VA 2\r\nhi\r\n"),
    ("ma n\r\n", "NF\r\n"),
    ("ma n N0 J13 v\r\n", "VA 2\r\n13\r\n"),
    ("ma n v\r\n", "VA 2\r\n14\r\n"),
    ("ma n D10 v t c\r\n", "VA 2 t-1 c<cas>\r\n24\r\n"),
    ("ma n MD D30 v T50 t\r\n", "VA 1 t50\r\n0\r\n"),
    ("ma n q\r\n", ""),
    ("ma n C99999\r\n", "EX\r\n"),
    ("ma n MX\r\n", "CLIENT_ERROR invalid mode for ma M token\r\n"),
    // Hit before and time of last access have their state before the command.
    ("ms h 1\r\nx\r\n", "HD\r\n"),
    ("mg h h l t\r\n", "HD h0 l0 t-1\r\n"),
    ("mg h h l t\r\n", "HD h1 l0 t-1\r\n"),
    // A key in base64 is stored decoded and returned as it was sent.
    ("ms Zm9v 1 b\r\nx\r\n", "HD\r\n"),
    ("mg foo v\r\n", "VA 1\r\nx\r\n"),
    ("mg Zm9v b k v\r\n", "VA 1 kZm9v b\r\nx\r\n"),
    ("md Zm9v b\r\n", "HD\r\n"),
    ("mg a v v\r\n", "CLIENT_ERROR duplicate flag\r\n"),
    ("mg a z\r\n", "CLIENT_ERROR invalid flag\r\n"),
    ("mg a Tx\r\n", "CLIENT_ERROR bad token in command line format\r\n"),
    ("mg a b\r\n", "CLIENT_ERROR error decoding key\r\n"),
    ("me nothing\r\n", "EN\r\n"),
];

const ERRORS: Exchanges = &[
    ("nonsense\r\n", "ERROR\r\n"),
    ("set a 0 0 x\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("touch a x\r\n", "CLIENT_ERROR invalid exptime argument\r\n"),
    ("flush_all x\r\n", "CLIENT_ERROR invalid exptime argument\r\n"),
    ("gat x a\r\n", "CLIENT_ERROR invalid exptime argument\r\n"),
    // The value is longer than its announced length: the rest is read as the next command.
    ("set a 0 0 1\r\nbcdef\r\n", "CLIENT_ERROR bad data chunk\r\nERROR\r\n"),
    ("get a\r\n", "END\r\n"),
];

/// Flags of meta commands that Debian's 1.6.18 lacks or treats differently.
const NEWER_META: Exchanges = &[
    ("set k 7 100 3\r\nabc\r\n", "STORED\r\n"),
    ("mg k s v f t k O1 q\r\n", "VA 3 s3 f7 t100 kk O1\r\nabc\r\n"),
    ("mg k h l t N30 R30 T50 q O9\r\n", "HD h1 l0 t100 O9\r\n"),
    ("mg k t\r\n", "HD t50\r\n"),
    ("mg k T0 t\r\n", "HD t-1\r\n"),
    ("mg k t v E77 c\r\n", "VA 3 t-1 c<cas>\r\nabc\r\n"),
    ("mg k u h\r\n", "HD h1\r\n"),
    ("mg k C77 v\r\n", "VA 3\r\nabc\r\n"),
    ("mg k C78 v k\r\n", "VA 3 kk\r\nabc\r\n"),
    ("mg k S9 P L\r\n", "CLIENT_ERROR invalid flag\r\n"),
    ("mg new N0 E5 c t v\r\n", "VA 0 c<cas> t-1 W\r\n\r\n"),
    ("mg new v\r\n", "VA 0 Z\r\n\r\n"),
    ("md new I E900 T30 q\r\n", ""),
    ("mg new c t v\r\n", "VA 0 c<cas> t30 X W\r\n\r\n"),
    ("mg new c k O7\r\n", "HD c<cas> knew O7 Z X\r\n"),
    ("ms new 2 E1000 c I C901\r\nhi\r\n", "EX c0\r\n"),
    ("ms new 2 E1000 c I C5 O1 k\r\nho\r\n", "HD c<cas> O1 knew\r\n"),
    ("mg new c v t\r\n", "VA 2 c<cas> t30 Z X\r\nho\r\n"),
    ("md new C1\r\n", "EX\r\n"),
    ("md new C1000 x T20 k O3\r\n", "HD knew O3\r\n"),
    ("mg new f s v t c\r\n", "VA 0 f0 s0 t20 c<cas>\r\n\r\n"),
    ("md new E1 x I\r\n", "HD\r\n"),
    ("mg new s v c\r\n", "VA 0 s0 c<cas> X W\r\n\r\n"),
    ("md new q\r\n", ""),
    ("md new q\r\n", "NF\r\n"),
    ("ms v 2 N10 MA F5 T60\r\nab\r\n", "HD\r\n"),
    ("mg v v f t\r\n", "VA 2 f5 t10\r\nab\r\n"),
    ("ms v 2 ma\r\ncd\r\n", "CLIENT_ERROR invalid flag\r\n"),
    ("ms v 2 MP T5\r\nef\r\n", "HD\r\n"),
    ("mg v v t\r\n", "VA 4 t10\r\nefab\r\n"),
    ("ms v 1 MR F9 T0 I\r\nr\r\n", "HD\r\n"),
    ("mg v v t f\r\n", "VA 1 t-1 f9\r\nr\r\n"),
    ("ms v 1 Mappend\r\n!\r\n", "CLIENT_ERROR invalid mode for ms M token\r\n"),
    ("ms v 1 S1\r\nx\r\n", "CLIENT_ERROR invalid flag\r\n"),
    ("ms v 1 S2\r\nx\r\n", "CLIENT_ERROR invalid flag\r\n"),
    ("ms v 2 b\r\nhi\r\n", "CLIENT_ERROR error decoding key\r\n"),
    ("ms dg== 2 b k s c\r\nhi\r\n", "HD kdg== b s2 c<cas>\r\n"),
    ("mg dg== b k v s\r\n", "VA 2 kdg== b s2\r\nhi\r\n"),
    ("ma n\r\n", "NF\r\n"),
    ("ma n N30 J7 v t k O4\r\n", "VA 1 t30 kn O4\r\n7\r\n"),
    ("ma n v\r\n", "VA 1\r\n8\r\n"),
    ("ma n D100 v E500 c\r\n", "VA 3 c<cas>\r\n108\r\n"),
    ("ma n M- D7 v t\r\n", "VA 3 t30\r\n101\r\n"),
    ("ma n Mdecr D7 v\r\n", "CLIENT_ERROR invalid mode for ma M token\r\n"),
    ("ma n M+ v q\r\n", ""),
    ("ma n MI q\r\n", ""),
    ("ma n C1\r\n", "EX\r\n"),
    ("ma n T5 t v\r\n", "VA 3 t5\r\n104\r\n"),
    ("ma n T0 t N5 v\r\n", "VA 3 t-1\r\n105\r\n"),
    ("ma n Dx\r\n", "CLIENT_ERROR invalid or duplicate flag\r\n"),
    ("ma n Jx\r\n", "CLIENT_ERROR invalid or duplicate flag\r\n"),
    ("ma n D18446744073709551615 v\r\n", "VA 3\r\n104\r\n"),
    ("ma n D18446744073709551616\r\n", "CLIENT_ERROR invalid or duplicate flag\r\n"),
    ("ma n D-1\r\n", "CLIENT_ERROR invalid or duplicate flag\r\n"),
    ("me missing\r\n", "EN\r\n"),
    ("me missing v\r\n", "EN\r\n"),
    ("me a !\r\n", "CLIENT_ERROR bad command line format\r\n"),
];

/// Malformed meta commands.
/// Flags beside one another, whose order counts.
const META_ORDER: Exchanges = &[
    // T and N take effect in their order, and t reports the time at its place.
    ("mg n1 N1000 t v T5000\r\n", "VA 0 t1000 W\r\n\r\n"),
    ("mg n1 T5000 t\r\n", "HD t5000 Z\r\n"),
    ("mg n2 T5000 t N1000\r\n", "HD t5000 W\r\n"),
    ("mg n2 R2000\r\n", "HD Z\r\n"),
    ("mg n3 T5000 N-1\r\n", "HD W\r\n"),
    ("mg n3 s\r\n", "EN\r\n"),
    ("mg n4 N-1 T5000\r\n", "HD W\r\n"),
    ("mg n4 s\r\n", "HD s0 Z\r\n"),
    // R compares with the time at its place.
    ("set r 0 1000 1\r\nx\r\n", "STORED\r\n"),
    ("mg r T100 R500\r\n", "HD W\r\n"),
    ("set r 0 100 1\r\nx\r\n", "STORED\r\n"),
    ("mg r T1000 R500\r\n", "HD\r\n"),
    ("mg r R2000 T5000\r\n", "HD W\r\n"),
    ("set r 0 1000 1\r\nx\r\n", "STORED\r\n"),
    ("mg r R500 T100\r\n", "HD\r\n"),
    // An item that is found ignores N.
    ("mg r t N7 v T1000\r\n", "VA 1 t100\r\nx\r\n"),
    // T holds for a number that ma creates if it follows N.
    ("ma a1 N0 J5 t v T100\r\n", "VA 1 t-1\r\n5\r\n"),
    ("ma a1 t v T200\r\n", "VA 1 t100\r\n6\r\n"),
    ("ma a2 T100 N300 J5 t\r\n", "HD t300\r\n"),
    // A CAS unique of 0 matches none and is older than none.
    ("ms c 1\r\nx\r\n", "HD\r\n"),
    ("ms c 1 C0 I\r\ny\r\n", "EX\r\n"),
    ("ms c 1 I MR C0\r\ny\r\n", "EX\r\n"),
    ("cas c 0 0 1 0\r\ny\r\n", "EXISTS\r\n"),
    ("mg c v\r\n", "VA 1\r\nx\r\n"),
];

/// As [`META_ORDER`], with flags that only newer versions have.
const NEWER_META_ORDER: Exchanges = &[
    // An invalidated item was fetched before, also if it is given a CAS unique.
    ("ms d 1\r\nx\r\n", "HD\r\n"),
    ("mg d s v h t\r\n", "VA 1 s1 h0 t-1\r\nx\r\n"),
    ("md d I E247\r\n", "HD\r\n"),
    ("mg d h t v c s\r\n", "VA 1 h1 t-1 c<cas> s1 X W\r\nx\r\n"),
    // E0 lets the server choose the CAS unique of an ms, and of no other command.
    ("ms e 1 E0 q\r\nx\r\n", ""),
    ("ms e 1 C1 I c\r\ny\r\n", "HD c<cas>\r\n"),
    ("mg z N0 E0 c\r\n", "HD c<cas> W\r\n"),
    ("ms z 1 C0\r\ny\r\n", "EX\r\n"),
    // F sets the client flags of an item whose value md removes.
    ("ms x 1 F3\r\nx\r\n", "HD\r\n"),
    ("md x F7 x\r\n", "HD\r\n"),
    ("mg x f s\r\n", "HD f7 s0\r\n"),
    // A key is returned without the bytes that its decoding skipped.
    ("mg aGVs!bG8= k b\r\n", "EN kaGVsbG8= b\r\n"),
];

const NEWER_META_ERRORS: Exchanges = &[
    ("ms k 2\r\nhi\r\n", "HD\r\n"),
    ("mg\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("mg \r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("mg k Ex\r\n", "CLIENT_ERROR bad token in command line format\r\n"),
    ("mg k Cx\r\n", "CLIENT_ERROR bad token in command line format\r\n"),
    ("mg k Nx\r\n", "CLIENT_ERROR bad token in command line format\r\n"),
    ("mg k Rx\r\n", "CLIENT_ERROR bad token in command line format\r\n"),
    ("mg k T\r\n", "CLIENT_ERROR bad token in command line format\r\n"),
    ("mg k T1x\r\n", "CLIENT_ERROR bad token in command line format\r\n"),
    ("mg k !\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("mg k v v\r\n", "CLIENT_ERROR duplicate flag\r\n"),
    ("mg k q q\r\n", "CLIENT_ERROR duplicate flag\r\n"),
    ("mg k O123456789012345678901234567890123\r\n", "CLIENT_ERROR opaque token too long\r\n"),
    ("mg k O12345678901234567890123456789012\r\n", "CLIENT_ERROR opaque token too long\r\n"),
    ("mg k O1234567890123456789012345678901\r\n", "HD O1234567890123456789012345678901\r\n"),
    ("mg a b\r\n", "CLIENT_ERROR error decoding key\r\n"),
    ("mg a= b\r\n", "CLIENT_ERROR error decoding key\r\n"),
    ("mg AAE= b k\r\n", "EN kAAE= b\r\n"),
    ("ms\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("ms k\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("ms k x\r\nhi\r\n", "CLIENT_ERROR bad command line format\r\nERROR\r\n"),
    ("ms k -2\r\nhi\r\n", "CLIENT_ERROR bad command line format\r\nERROR\r\n"),
    ("ms k 2 Fx\r\nhi\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("ms k 2 Tx\r\nhi\r\n", "CLIENT_ERROR bad token in command line format\r\n"),
    ("ms k 2 MX\r\nhi\r\n", "CLIENT_ERROR invalid mode for ms M token\r\n"),
    ("ms k 2 ME MA\r\nhi\r\n", "CLIENT_ERROR duplicate flag\r\n"),
    ("ms k 2 C\r\nhi\r\n", "CLIENT_ERROR bad token in command line format\r\n"),
    ("ms k 2 F4294967296\r\nhi\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("ms k 2147483648\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("md\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("md k Cx\r\n", "CLIENT_ERROR bad token in command line format\r\n"),
    ("md k v v\r\n", "CLIENT_ERROR duplicate flag\r\n"),
    ("md k b\r\n", "CLIENT_ERROR error decoding key\r\n"),
    ("ma\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("ma k MX\r\n", "CLIENT_ERROR invalid mode for ma M token\r\n"),
    ("ma k Nx\r\n", "CLIENT_ERROR invalid or duplicate flag\r\n"),
    ("ma k b\r\n", "CLIENT_ERROR invalid or duplicate flag\r\n"),
    ("me\r\n", "CLIENT_ERROR bad command line format\r\n"),
];

/// Malformed other commands, with the exact words of 1.6.45.
const NEWER_ERRORS: Exchanges = &[
    ("\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("a\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("ab\r\n", "ERROR\r\n"),
    ("  \r\n", "ERROR\r\n"),
    ("get\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("get \r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("gets\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("gat\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("gat 0\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("gat 0 \r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("gat x a\r\n", "CLIENT_ERROR invalid exptime argument\r\n"),
    ("gat -1 a\r\n", "END\r\n"),
    ("set\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("set a\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("set a 0\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("set a 0 0\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("set a 0 0 \r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("set a -1 0 2\r\nhi\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("set a 4294967296 0 2\r\nhi\r\n", "STORED\r\n"),
    ("set a 4294967295 0 2\r\nhi\r\n", "STORED\r\n"),
    ("set a 0 99999999999 2\r\nhi\r\n", "STORED\r\n"),
    ("set a 0 0 2x\r\nhi\r\n", "CLIENT_ERROR bad command line format\r\nERROR\r\n"),
    ("set a 0 0 -1\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("set a 0 0 2 noreply\r\nhi\r\n", ""),
    ("set a 0 0 2 x\r\nhi\r\n", "STORED\r\n"),
    ("set a 0 0 1\r\nhi\r\n", "CLIENT_ERROR bad data chunk\r\nCLIENT_ERROR bad command line format\r\n"),
    ("cas a 0 0 2\r\nhi\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("cas a 0 0 2 x\r\nhi\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("cas a 0 0 2 -1\r\nhi\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("add\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("replace\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("append a\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("prepend a 0\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("delete\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("delete a 0\r\n", "DELETED\r\n"),
    ("delete a 5\r\n", "NOT_FOUND\r\n"),
    ("delete a noreply\r\n", ""),
    ("incr\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("incr a\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("incr a -1\r\n", "CLIENT_ERROR invalid numeric delta argument\r\n"),
    ("incr a 1x\r\n", "CLIENT_ERROR invalid numeric delta argument\r\n"),
    ("incr a 18446744073709551616\r\n", "CLIENT_ERROR invalid numeric delta argument\r\n"),
    ("decr a\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("touch\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("touch a\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("touch a x\r\n", "CLIENT_ERROR invalid exptime argument\r\n"),
    ("touch a 1 noreply\r\n", ""),
    ("flush_all x\r\n", "CLIENT_ERROR invalid exptime argument\r\n"),
    ("flush_all noreply\r\n", ""),
    ("flush_all 0 noreply\r\n", ""),
    ("flush_all x noreply\r\n", ""),
    ("verbosity\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("verbosity x\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("verbosity noreply\r\n", ""),
    ("verbosity 0 noreply\r\n", ""),
    ("verbosity 0 0\r\n", "OK\r\n"),
    ("cache_memlimit\r\n", "ERROR\r\n"),
    ("cache_memlimit x\r\n", "ERROR\r\n"),
    ("lru\r\n", "ERROR\r\n"),
    ("lru tune\r\n", "ERROR\r\n"),
    ("lru tune 10 20 0.1\r\n", "ERROR\r\n"),
    ("lru tune x 20 0.1 2.0\r\n", "ERROR\r\n"),
    ("lru mode\r\n", "ERROR\r\n"),
    ("lru temp_ttl x\r\n", "ERROR\r\n"),
    ("slabs\r\n", "ERROR\r\n"),
    ("slabs reassign\r\n", "ERROR\r\n"),
    ("slabs reassign x 1\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("slabs reassign 1\r\n", "ERROR\r\n"),
    ("slabs automove\r\n", "ERROR\r\n"),
    ("slabs automove x\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("slabs automove ratio x\r\n", "ERROR\r\n"),
    ("slabs automove window 1\r\n", "CLIENT_ERROR automove window too low or too high\r\n"),
    ("slabs automove window x\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("lru_crawler crawl\r\n", "ERROR\r\n"),
    ("lru_crawler crawl hash\r\n", "ERROR an unknown error happened\r\n"),
    ("lru_crawler metadump\r\n", "ERROR\r\n"),
    ("lru_crawler mgdump\r\n", "ERROR\r\n"),
    ("lru_crawler metadump x\r\n", "BADCLASS invalid class id\r\n"),
    ("lru_crawler metadump all all\r\n", "ERROR\r\n"),
    ("lru_crawler sleep\r\n", "ERROR\r\n"),
    ("lru_crawler sleep x\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("stats nonsense\r\n", "ERROR\r\n"),
    ("stats sizes\r\n", "STAT sizes_status disabled\r\nEND\r\n"),
    ("stats sizes_enable\r\n", "ERROR\r\n"),
    ("stats cachedump\r\n", "CLIENT_ERROR bad command line\r\n"),
    ("stats cachedump 1\r\n", "CLIENT_ERROR bad command line\r\n"),
    ("stats cachedump x 1\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("stats cachedump 64 1\r\n", "CLIENT_ERROR Illegal slab id\r\n"),
    ("stats cachedump 63 1\r\n", "END\r\n"),
    ("watch nothing\r\n", "ERROR\r\n"),
    ("watch fetchers nothing\r\n", "ERROR\r\n"),
    ("shutdown\r\n", "SERVER_ERROR: shutdown not enabled\r\n"),
    ("shutdown graceful\r\n", "SERVER_ERROR: shutdown not enabled\r\n"),
    ("debugtime 1\r\n", "ERROR\r\n"),
    ("extstore\r\n", "ERROR\r\n"),
];

/// Replaces CAS uniques, which differ from server to server, by `<cas>`.
fn without_cas(sent: &str, answer: &str) -> String {
    let gets = sent.starts_with("gets ") || sent.starts_with("gats ");
    let mut out = String::new();
    for line in answer.split_inclusive("\r\n") {
        let (line, end) = line.strip_suffix("\r\n").map_or((line, ""), |line| (line, "\r\n"));
        let words: Vec<&str> = line.split(' ').collect();
        let is_meta = sent.starts_with('m') && ["VA", "HD"].contains(&words[0]);
        let masked: Vec<String> = words
            .iter()
            .enumerate()
            .map(|(place, word)| match word {
                _ if gets && words[0] == "VALUE" && place == 4 => "<cas>".to_owned(),
                word if is_meta && place > 0 && word.starts_with('c') => "c<cas>".to_owned(),
                word => (*word).to_owned(),
            })
            .collect();
        out += &masked.join(" ");
        out += end;
    }
    out
}

const OPERATORS: Exchanges = &[
    ("cache_memlimit 7\r\n", "MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n"),
    ("cache_memlimit 1000000001\r\n", "MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes\r\n"),
    ("cache_memlimit 64\r\n", "OK\r\n"),
    ("slabs reassign 1 99\r\n", "BADCLASS invalid src or dst class id\r\n"),
    ("slabs automove 1\r\n", "OK\r\n"),
    ("slabs automove 3\r\n", "ERROR\r\n"),
    ("slabs nonsense\r\n", "ERROR\r\n"),
    ("lru mode flat\r\n", "OK\r\n"),
    ("lru mode segmented\r\n", "OK\r\n"),
    ("lru mode round\r\n", "ERROR\r\n"),
    ("lru tune 10 20 0.1 2.0\r\n", "OK\r\n"),
    ("lru tune 50 50 0.1 2.0\r\n", "ERROR hot and warm pcts must not exceed 80\r\n"),
    ("lru tune 10 20 0 2.0\r\n", "ERROR hot/warm age factors must be greater than 0\r\n"),
    ("lru temp_ttl 60\r\n", "OK\r\n"),
    ("lru temp_ttl -1\r\n", "OK\r\n"),
    ("lru_crawler sleep 100\r\n", "OK\r\n"),
    ("lru_crawler sleep 1000001\r\n", "CLIENT_ERROR sleep must be one second or less\r\n"),
    ("lru_crawler tocrawl 100\r\n", "OK\r\n"),
    ("lru_crawler tocrawl x\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("lru_crawler crawl 0\r\n", "BADCLASS invalid class id\r\n"),
    ("lru_crawler crawl 1,x\r\n", "BADCLASS invalid class id\r\n"),
    ("lru_crawler\r\n", "ERROR\r\n"),
];

/// Whether an answer is the expected one. A remaining time (`t`) or an age (`l`) may differ by the seconds that have
/// passed.
fn alike(expected: &str, answer: &str) -> bool {
    let seconds = |word: &str, name| word.strip_prefix(name)?.parse::<i64>().ok();
    let differ = |a, b, name| seconds(b, name).zip(seconds(a, name)).map(|(b, a)| b - a);
    let passed = |expected, word| {
        let left = differ(word, expected, 't');
        left.or(differ(expected, word, 'l')).is_some_and(|passed| (1..=5).contains(&passed))
    };
    let blanks = [' ', '\r', '\n'];
    let same = |(a, b)| a == b || passed(a, b);
    expected.matches(blanks).eq(answer.matches(blanks)) && expected.split(blanks).zip(answer.split(blanks)).all(same)
}

/// Runs a table on a server and returns the differences.
fn differences(server: &Server, table: Exchanges) -> Vec<String> {
    let mut connection = server.connect();
    table
        .iter()
        .filter_map(|(sent, expected)| {
            let answer = without_cas(sent, &connection.exchange(sent.as_bytes()));
            (!alike(expected, &answer)).then(|| format!("{sent:?}: expected {expected:?}, got {answer:?}"))
        })
        .collect()
}

/// Runs a table on a node, and on the memcached that `LARDER_MEMCACHED` names (1.6.45 or newer).
fn check_newest(table: Exchanges) {
    let node = Server::node(&[]);
    assert_eq!(differences(&node, table), Vec::<String>::new(), "larder-node");
    if let Some(program) = std::env::var_os("LARDER_MEMCACHED") {
        let memcached = Server::memcached_at(program.as_ref(), &[]);
        assert_eq!(differences(&memcached, table), Vec::<String>::new(), "memcached: the table is wrong");
    }
}

fn check(table: Exchanges) {
    let node = Server::node(&[]);
    assert_eq!(differences(&node, table), Vec::<String>::new(), "larder-node");
    if let Some(memcached) = Server::memcached(&[]) {
        assert_eq!(differences(&memcached, table), Vec::<String>::new(), "memcached: the table is wrong");
    }
}

#[test]
fn classic_commands_are_answered_as_memcached_answers_them() {
    check(CLASSIC);
}

#[test]
fn arithmetic_is_answered_as_memcached_answers_it() {
    check(ARITHMETIC);
}

#[test]
fn meta_commands_are_answered_as_memcached_answers_them() {
    check(META);
    check_newest(NEWER_META);
    check(META_ORDER);
    check_newest(NEWER_META_ORDER);
}

#[test]
fn errors_have_memcacheds_words() {
    check(ERRORS);
    check_newest(NEWER_ERRORS);
    check_newest(NEWER_META_ERRORS);
}

#[test]
fn operators_commands_are_answered_as_memcached_answers_them() {
    check(OPERATORS);
}

#[test]
fn a_value_above_the_limit_is_refused_its_bytes_are_skipped_and_the_old_value_goes() {
    let check = |server: &Server| {
        let mut connection = server.connect();
        assert_eq!(connection.exchange(b"set a 0 0 3\r\nold\r\n"), "STORED\r\n");
        let mut request = b"set a 0 0 2000000\r\n".to_vec();
        request.resize(request.len() + 2_000_000, b'x');
        request.extend_from_slice(b"\r\nget a\r\n");
        assert_eq!(connection.exchange(&request), "SERVER_ERROR object too large for cache\r\nEND\r\n");
    };
    check(&Server::node(&[]));
    Server::memcached(&[]).iter().for_each(check);
}

#[test]
fn version_and_quit_do_what_they_say() {
    let node = Server::node(&[]);
    let mut connection = node.connect();
    assert!(connection.exchange(b"version\r\n").starts_with("VERSION "));
    connection.send(b"set a 0 0 1\r\nx\r\nquit\r\nget a\r\n");
    assert_eq!(connection.read_to_end(), b"STORED\r\n");
}

#[test]
fn statistics_count_what_was_asked() {
    let node = Server::node(&["-m", "32"]);
    let mut connection = node.connect();
    connection.exchange(b"set a 0 0 1\r\nx\r\nget a b\r\ndelete c\r\nincr d 1\r\ntouch a 5\r\n");
    // The connection that found the node ready may not be closed yet.
    let deadline = Instant::now() + PATIENCE;
    let statistics = loop {
        let statistics = connection.exchange(b"stats\r\n");
        if statistics.contains("STAT curr_connections 1\r\n") || Instant::now() > deadline {
            break statistics;
        }
    };
    let expected = [
        ("cmd_get", "2"),
        ("get_hits", "1"),
        ("get_misses", "1"),
        ("cmd_set", "1"),
        ("delete_misses", "1"),
        ("incr_misses", "1"),
        ("touch_hits", "1"),
        ("curr_items", "1"),
        ("limit_maxbytes", "33554432"),
        ("curr_connections", "1"),
    ];
    for (name, value) in expected {
        assert!(statistics.contains(&format!("STAT {name} {value}\r\n")), "{name} {value} in {statistics}");
    }
}
