package commit

import (
	"testing"
	"time"
)

func key() *Key[int] { return New(func() *Batch[int] { return &Batch[int]{} }) }

func never(*Batch[int]) bool  { return false }
func always(*Batch[int]) bool { return true }

func TestOneRunsOneWaits(t *testing.T) {
	k, now := key(), time.Unix(0, 0)
	first, action := k.Join(now, Ask{}, never)
	if action != Start {
		t.Fatal("the first request must start a read")
	}
	second, action := k.Join(now, Ask{}, never)
	third, _ := k.Join(now, Ask{}, never)
	if action != Share || second == first || third != second {
		t.Fatal("those who arrive while a read runs must wait together for the next")
	}
	k.Learned(first, 5)
	_, _, next := k.Ended(first, now, false)
	if next != second || next.Members != 2 || next.Started != now {
		t.Fatalf("the waiting batch must start when the running one ends, got %+v", next)
	}
	if _, _, next := k.Ended(second, now, false); next != nil {
		t.Fatal("nobody waits")
	}
}

func TestLeaving(t *testing.T) {
	k, now := key(), time.Unix(0, 0)
	first, _ := k.Join(now, Ask{}, never)
	k.Join(now, Ask{}, never)
	waiting, _ := k.Join(now, Ask{}, never)
	if k.Leave(waiting) {
		t.Fatal("one of two left, and the batch was abandoned")
	}
	if !k.Leave(waiting) {
		t.Fatal("both left, and the batch was not abandoned")
	}
	if !k.Leave(first) {
		t.Fatal("the read that runs has nobody to read for")
	}
	if _, _, next := k.Ended(first, now, false); next != nil {
		t.Fatal("an abandoned batch was started")
	}
	if !k.Idle() {
		t.Fatal("nothing is left, and the key is not idle")
	}
}

func TestKeptAnswers(t *testing.T) {
	k, now := key(), time.Unix(0, 0)
	b, _ := k.Join(now, Ask{Class: Cached}, never)
	k.Learned(b, 7)
	if kept, _, _ := k.Ended(b, now, true); !kept {
		t.Fatal("a whole answer with a version must be kept")
	}
	k.Leave(b)
	if got, action := k.Join(now, Ask{Class: Cached, NotBelow: 7}, always); got != b || action != Share {
		t.Fatal("the kept answer must serve a request that asks for no more")
	}
	if got, _ := k.Join(now, Ask{Class: Cached, NotBelow: 8}, always); got.Class != Recent {
		t.Fatal("a version nobody has seen must be asked for as the most recent state, not in everyone's name")
	}
	if got, _ := k.Join(now, Ask{Class: Recent}, always); got == b {
		t.Fatal("a request for the most recent state was given a kept answer")
	}
	if got, _ := k.Join(now.Add(time.Second), Ask{Class: Recent, MaxAge: 2 * time.Second}, always); got == b {
		t.Fatal("how old a cached answer is nobody knows, and it was given to a request with a bound on the age")
	}
}

func TestBoundedAge(t *testing.T) {
	k, now := key(), time.Unix(0, 0)
	b, _ := k.Join(now, Ask{}, never)
	if got, _ := k.Join(now.Add(time.Second), Ask{MaxAge: 2 * time.Second}, never); got != b {
		t.Fatal("a request that takes 2 s of age did not share a read that has run for 1 s")
	}
	k.Learned(b, 7)
	k.Ended(b, now, true)
	if got, _ := k.Join(now.Add(2*time.Second), Ask{MaxAge: 2 * time.Second}, never); got != b {
		t.Fatal("a request that takes 2 s of age was not given an answer of 2 s")
	}
	if got, _ := k.Join(now.Add(3*time.Second), Ask{MaxAge: 2 * time.Second}, never); got == b {
		t.Fatal("a request that takes 2 s of age was given an answer of 3 s")
	}
}

func TestOlderAnswersAreNotKept(t *testing.T) {
	k, now := key(), time.Unix(0, 0)
	cached, _ := k.Join(now, Ask{Class: Cached}, never)
	recent, _ := k.Join(now, Ask{}, never)
	k.Learned(recent, 9)
	k.Ended(recent, now, false)
	k.Learned(cached, 8)
	if kept, _, _ := k.Ended(cached, now, true); kept {
		t.Fatal("an answer older than what was served was kept")
	}
	if next, _ := k.Join(now, Ask{Class: Cached}, always); next.Floor != 9 {
		t.Fatalf("the next cached read must ask for at least 9, asks for %d", next.Floor)
	}
}

func TestVersionsRunBackwards(t *testing.T) {
	k, now := key(), time.Unix(0, 0)
	b, _ := k.Join(now, Ask{}, never)
	k.Learned(b, 100)
	k.Ended(b, now, true)
	restored, _ := k.Join(now, Ask{}, never)
	if !k.Learned(restored, 40) {
		t.Fatal("a most recent state below what was served must be noticed")
	}
	if k.Newest() != nil || k.Served() != 40 {
		t.Fatalf("everything before must be forgotten, served %d", k.Served())
	}
}

func TestTornAnswersGetNoNewMembers(t *testing.T) {
	k, now := key(), time.Unix(0, 0)
	b, _ := k.Join(now, Ask{Class: Cached}, never)
	if other, _ := k.Join(now, Ask{Class: Cached}, never); other != b {
		t.Fatal("a cached read under way must be shared while it is whole")
	}
	k.Torn(b)
	if other, _ := k.Join(now, Ask{Class: Cached}, never); other == b {
		t.Fatal("an answer without its beginning got another reader")
	}
	k.Learned(b, 3)
	if kept, _, _ := k.Ended(b, now, true); kept {
		t.Fatal("an answer without its beginning was kept")
	}
}
