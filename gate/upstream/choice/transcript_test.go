package choice

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/seakeep/seakeep/internal/testkit"
)

var update = flag.Bool("update", false, "write what was decided into the transcripts")

// TestTranscripts plays the transcripts of testdata and compares what was decided, and how the circuits moved, with what
// stands there. A line is a time and a command; what came of it stands below, indented:
//
//	servers a b c
//	0s request NAME recent|memory [stream] [loose] [insistent] [seats=N] [tried=a,b]
//	0s answer NAME ok|ok-elsewhere|refused|error|broke|unreached|gone
//	0s etcd-error NAME
//	0s close NAME
//	0s probe SERVER serving|quorum well|ill|mute|absent|unsaid [took=600ms]
//	0s load
//
// An answer closes its request unless that is a stream. "loose" is a request whose good answer proves nothing of etcd;
// "ok-elsewhere" an answer that proves nothing. "N×" before a request repeats it and answers each with what follows "→";
// "none" leaves them waiting, and "0s answer * ok" answers all of those.
func TestTranscripts(t *testing.T) { testkit.Transcripts(t, *update, play) }

type stage struct {
	t       *testing.T
	table   *Table
	all     []*Server
	tickets map[string]*Ticket
	waiting []*Ticket
	out     bytes.Buffer
	shown   map[string]string
}

var epoch = time.Unix(1e9, 0)

func play(t *testing.T, script []byte) []byte {
	t.Helper()
	s := &stage{t: t, table: &Table{}, tickets: map[string]*Ticket{}, shown: map[string]string{}}
	lines := bufio.NewScanner(bytes.NewReader(script))
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "\t") {
			continue
		}
		fmt.Fprintln(&s.out, line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		s.command(line)
	}
	return s.out.Bytes()
}

func (s *stage) command(line string) {
	words := strings.Fields(line)
	if words[0] == "servers" {
		for _, name := range words[1:] {
			s.all = append(s.all, NewServer(name))
		}
		return
	}
	at, err := time.ParseDuration(words[0])
	if err != nil {
		s.t.Fatalf("%q: %v", line, err)
	}
	now := epoch.Add(at)
	switch words[1] {
	case "request":
		s.say("%s", s.request(now, words[2], words[3:]))
	case "answer":
		if words[2] != "*" {
			s.answer(now, words[2], words[3])
			break
		}
		for _, ticket := range s.waiting {
			s.tickets["*"] = ticket
			s.answer(now, "*", words[3])
		}
		s.waiting = nil
	case "etcd-error":
		s.tickets[words[2]].StoreErred(now, s.all)
	case "close":
		s.tickets[words[2]].Closed()
	case "probe":
		took := time.Duration(0)
		if len(words) > 5 {
			took, _ = time.ParseDuration(strings.TrimPrefix(words[5], "took="))
		}
		findings := map[string]Finding{"well": Well, "ill": Ill, "mute": Mute, "absent": Absent, "unsaid": Unsaid}
		finding, ok := findings[words[4]]
		ability := Ability(slices.Index([]string{"serving", "quorum"}, words[3]))
		if !ok || ability < 0 {
			s.t.Fatalf("%q is no probe", line)
		}
		s.table.Probed(now.Add(-took), now, s.all, s.server(words[2]), ability, finding)
	case "load":
		for _, server := range s.all {
			v := s.table.View(now, server)
			s.say("%s: %v seats, %d streams, penalty %.1f", v.Name, v.Seats, v.Streams, v.Penalty)
		}
	default:
		s.repeat(now, line, words)
	}
	s.changes(now)
}

// repeat sends a request many times, one after the other, and tells where they went.
func (s *stage) repeat(now time.Time, line string, words []string) {
	count, err := strconv.Atoi(strings.TrimSuffix(words[1], "×"))
	arrow := slices.Index(words, "→")
	if err != nil || arrow < 0 {
		s.t.Fatalf("%q is no command", line)
	}
	outcomes := map[string]string{}
	for _, word := range words[arrow+1:] {
		server, outcome, found := strings.Cut(word, ":")
		if !found {
			server, outcome = "", word
		}
		outcomes[server] = outcome
	}
	went := map[string]int{}
	for range count {
		chosen := s.request(now, "repeated", words[3:arrow])
		went[strings.TrimPrefix(chosen, "repeated: ")]++
		if ticket := s.tickets["repeated"]; ticket != nil {
			outcome, ok := outcomes[ticket.server.Name]
			if !ok {
				outcome = outcomes[""]
			}
			if outcome == "none" {
				s.waiting = append(s.waiting, ticket)
				continue
			}
			s.answer(now, "repeated", outcome)
		}
	}
	var names []string
	for name := range went {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		s.say("%s: %d", name, went[name])
	}
}

func (s *stage) server(name string) *Server {
	i := slices.IndexFunc(s.all, func(server *Server) bool { return server.Name == name })
	if i < 0 {
		s.t.Fatalf("no server %q", name)
	}
	return s.all[i]
}

func (s *stage) request(now time.Time, name string, words []string) string {
	r := Request{Proves: true}
	var tried []*Server
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "recent":
		case "memory":
			r.Class, r.Proves = Memory, false
		case "stream":
			r.Stream = true
		case "loose":
			r.Proves = false
		case "insistent":
			r.Insistent = true
		case "seats":
			r.Seats, _ = strconv.ParseFloat(value, 64)
		case "tried":
			for n := range strings.SplitSeq(value, ",") {
				tried = append(tried, s.server(n))
			}
		default:
			s.t.Fatalf("%q says nothing about a request", word)
		}
	}
	ticket, err := s.table.Begin(now, s.all, tried, r)
	if err != nil {
		delete(s.tickets, name)
		return name + ": nobody"
	}
	s.tickets[name] = ticket
	suffix := ""
	if ticket.panic {
		suffix = ", in panic"
	}
	return name + ": " + ticket.Server().Name + suffix
}

func (s *stage) answer(now time.Time, name, outcome string) {
	outcomes := map[string]Outcome{
		"ok": Answered, "ok-elsewhere": Answered, "refused": Refused, "error": Erred, "broke": Broke, "unreached": Unreached, "gone": Gone,
	}
	o, ok := outcomes[outcome]
	if !ok {
		s.t.Fatalf("%q is no outcome", outcome)
	}
	ticket := s.tickets[name]
	ticket.Answered(now, s.all, o, outcome == "ok")
	if !ticket.r.Stream || o != Answered {
		ticket.Closed()
	}
}

func (s *stage) say(format string, a ...any) { fmt.Fprintf(&s.out, "\t"+format+"\n", a...) }

// changes tells how circuits have moved.
func (s *stage) changes(now time.Time) {
	for _, server := range s.all {
		v := s.table.View(now, server)
		for _, a := range []Ability{Serving, Quorum} {
			text := v.States[a].String()
			if v.Why[a] != "" {
				text += ", " + string(v.Why[a])
			}
			key := v.Name + " " + a.String()
			if before, known := s.shown[key]; known && before != text || !known && v.States[a] != In {
				s.say("%s: %s", key, text)
			}
			s.shown[key] = text
		}
	}
}
