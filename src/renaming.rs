//! New names for blocks after a rotation of the server secret: what an edge asks of a core and what the core answers.
//! No I/O.
//!
//! An edge names a block by its digest and *proves* that it was given the block's older name; it never tells that name.
//! The core computes the older name, checks the proof, and answers with the new secret and a proof of its own. So a
//! core that does not have the older server secret, whatever it says, learns no more than the digests it is asked for,
//! and those are few until it has proved itself: [`Doubt`]. Both proofs hold on this link alone.

use crate::block::{BlockHash, Digest, KeyId, Named, Naming, Reference, Secret};
use crate::proof::{self, Exporter, Proof};

/// What an edge asks for one block.
pub type Question = (Digest, Proof);

/// What a core answers for one block; zeros where it gives no name.
pub type Answer = (Secret, Proof);

/// Returns the question for a block that is known by its older name.
#[must_use]
pub fn ask(older: &Reference, exporter: &Exporter) -> Question {
    let hash = BlockHash::of(older);
    (older.digest, proof::rekey(&hash, &hash.tag(older), exporter))
}

/// Answers an edge that has blocks under `key`: for each whose proof is right, the secret under the current server
/// secret. Nothing where `key` is not that of the older secret, in its grace period.
#[must_use]
pub fn answer(
    naming: &Naming,
    key: KeyId,
    questions: &[Question],
    exporter: &Exporter,
) -> (KeyId, Vec<Answer>) {
    let older = naming.older.as_ref().filter(|older| older.id() == key);
    let answers = questions.iter().map(|(digest, shown)| {
        let none = (Secret([0; 32]), [0; 32]);
        let Some(older) = older else { return none };
        let older = reference(digest, older.name(digest));
        let hash = BlockHash::of(&older);
        let tag = hash.tag(&older);
        if !proof::agree(shown, &proof::rekey(&hash, &tag, exporter)) {
            return none;
        }
        let new = naming.current.name(digest);
        (new.secret, proof::rekeyed(&hash, &tag, exporter, &new))
    });
    (naming.current.id(), answers.collect())
}

/// Returns the block's new reference, if the core proved that it knows the older one.
#[must_use]
pub fn accept(older: &Reference, key: KeyId, answer: &Answer, exporter: &Exporter) -> Option<Reference> {
    let (secret, shown) = *answer;
    let (hash, new) = (BlockHash::of(older), Named { key, secret });
    let right = proof::agree(&shown, &proof::rekeyed(&hash, &hash.tag(older), exporter, &new));
    right.then(|| older.under(new))
}

/// How many blocks a core is asked for at a time: one, until it has proved that it knows the older server secret.
#[derive(Debug, Default)]
pub struct Doubt {
    is_proven: bool,
    disappointed: usize,
}

impl Doubt {
    /// Returns how many blocks to name, of at most `max`; `None` when the core is to be asked no more.
    #[must_use]
    pub fn blocks(&self, max: usize) -> Option<usize> {
        match (self.is_proven, self.disappointed) {
            (true, _) => Some(max),
            (false, DISAPPOINTMENTS_MAX..) => None,
            (false, _) => Some(1),
        }
    }

    /// Notes how many of so many answers were proven.
    pub fn handle_answers(&mut self, asked: usize, proven: usize) {
        self.is_proven |= proven > 0;
        self.disappointed += asked - proven;
    }
}

/// No proof covers the length of a block: its digest does.
fn reference(digest: &Digest, named: Named) -> Reference {
    Reference { digest: *digest, secret: named.secret, key: named.key, len: 1 }
}

/// Names without proof after which a core is asked no more. More than one, since a block may have a wrong older name.
const DISAPPOINTMENTS_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::ServerSecret;

    #[test]
    fn a_block_gets_the_name_that_the_core_would_give_it() {
        let naming = naming();
        let older = older(&naming, 1);
        let (key, answers) = answer(&naming, older.key, &[ask(&older, &HERE)], &HERE);
        let new = accept(&older, key, &answers[0], &HERE).unwrap();
        assert_eq!(new, older.under(naming.current.name(&older.digest)));
    }

    #[test]
    fn only_who_has_the_older_name_of_a_block_gets_its_new_one() {
        let naming = naming();
        let held = older(&naming, 1);
        let guessed = Reference { secret: Secret([9; 32]), ..older(&naming, 2) };
        let asked = [ask(&held, &HERE), ask(&guessed, &HERE), ask(&older(&naming, 3), &ELSEWHERE)];
        let (key, answers) = answer(&naming, held.key, &asked, &HERE);
        assert_eq!(key, naming.current.id());
        assert_ne!(answers[0], NOTHING);
        assert_eq!(answers[1..], [NOTHING; 2], "a guess, and a proof that was shown on another link");
        for key in [KeyId([7; 8]), naming.current.id(), KeyId::PLAIN] {
            assert_eq!(
                answer(&naming, key, &asked, &HERE).1,
                [NOTHING; 3],
                "a key that is not the older one"
            );
        }
    }

    #[test]
    fn a_core_of_another_domain_learns_no_secret_and_few_digests() {
        let (naming, held) = (naming(), older(&naming(), 1));
        let question = ask(&held, &HERE);
        assert!(question.1 != held.secret.0 && question.1 != held.digest.0);
        // It cannot answer: with what it made up, with another domain's secrets, with another link's proof.
        let other = Naming { older: Some(ServerSecret::new([8; 32])), ..naming.clone() };
        let there = answer(&naming, held.key, &[ask(&held, &ELSEWHERE)], &ELSEWHERE).1[0];
        let foreign = answer(&other, other.older.as_ref().unwrap().id(), &[question], &HERE).1[0];
        for made_up in [NOTHING, (Secret([3; 32]), [4; 32]), foreign, there] {
            assert_eq!(accept(&held, naming.current.id(), &made_up, &HERE), None);
        }
        let mut doubt = Doubt::default();
        let mut told = 0;
        while let Some(blocks) = doubt.blocks(256) {
            told += blocks;
            doubt.handle_answers(blocks, 0);
        }
        assert_eq!(told, DISAPPOINTMENTS_MAX);
        let mut doubt = Doubt::default();
        doubt.handle_answers(1, 0);
        doubt.handle_answers(1, 1);
        doubt.handle_answers(256, 0);
        assert_eq!(doubt.blocks(256), Some(256), "one right answer is enough");
    }

    const HERE: Exporter = [1; 32];
    const ELSEWHERE: Exporter = [2; 32];
    const NOTHING: Answer = (Secret([0; 32]), [0; 32]);

    fn naming() -> Naming {
        Naming { current: ServerSecret::new([2; 32]), older: Some(ServerSecret::new([1; 32])) }
    }

    fn older(naming: &Naming, n: u8) -> Reference {
        let digest = Digest([n; 32]);
        reference(&digest, naming.older.as_ref().unwrap().name(&digest))
    }
}
