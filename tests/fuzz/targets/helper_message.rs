//! What the agent and its helpers say to each other. The first byte is the kind.

#![no_main]

use headstart::daemon::helper::wire::{
    HEAD, Request, answer, carry, decode_answer, decode_request, head,
};
use libfuzzer_sys::fuzz_target;

/// The kind and the message of a frame that was made here.
fn message(frame: &[u8]) -> (u8, &[u8]) {
    let (first, rest) = frame.split_first_chunk::<HEAD>().expect("a head");
    let (kind, length) = head(*first).expect("a good one");
    assert_eq!(rest.len(), length);
    (kind, rest)
}

fuzz_target!(|bytes: &[u8]| {
    if let Some(first) = bytes.first_chunk::<HEAD>() {
        let _ = head(*first);
    }
    let Some((&kind, body)) = bytes.split_first() else {
        return;
    };
    // Compared as bytes: what is not a number does not equal itself.
    if let Ok(Request::Carry { id, plan, terms }) = decode_request(kind, body) {
        let once = carry(id, &plan, &terms).expect("no longer than it was");
        let (kind, body) = message(&once);
        let Ok(Request::Carry { id, plan, terms }) = decode_request(kind, body) else {
            panic!("what was read can't be read again");
        };
        assert_eq!(carry(id, &plan, &terms).expect("as long"), once);
    }
    if let Ok(said) = decode_answer(kind, body) {
        let once = answer(said.id, &said.report).expect("no longer than it was");
        let (kind, body) = message(&once);
        let again = decode_answer(kind, body).expect("what was read can be read again");
        assert_eq!(answer(again.id, &again.report).expect("as long"), once);
    }
});
