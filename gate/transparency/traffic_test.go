package transparency_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A traffic file holds scenarios ("=== name"), each of them steps that are sent one after the other:
//
//	METHOD target            what is sent, letter by letter; $name stands for what was saved before
//	Name: value              a header, as often as it is to be sent
//	body text                the body, to the end of the line
//	bodysize n               a body of n bytes
//	until                    send it again until the status is the expected one (for what the API server does in its time)
//	-> status                what the API server must answer directly; what the gate answers is compared with that
//	want header Name text    the direct answer's header contains the text; "-" is any value
//	want no header Name
//	want body text           the direct answer's body contains the text
//	save name .a.b           a value of the JSON answer; "header:Name" a header, "body" the whole body
//
// The expectations see to it that the test is about what it says; what is compared is everything.
type scenario struct {
	name  string
	steps []*step
}

type step struct {
	line    int
	method  string
	target  string
	header  http.Header
	body    string
	hasBody bool
	until   bool

	// statuses are those expected: more than one where minors of Kubernetes differ. Direct and gate must be equal.
	statuses []int
	wants    []want
	saves    []save
}

type want struct{ header, text string } // header "": the body

type save struct{ name, from string }

func readTraffic(t *testing.T, file string) []*scenario {
	t.Helper()
	text, err := os.ReadFile(file)
	check(t, err)
	var scenarios []*scenario
	var at *step // the step that is being read
	for number, line := range strings.Split(string(text), "\n") {
		if err := readLine(&scenarios, &at, number+1, line); err != nil {
			t.Fatalf("%s:%d: %v", file, number+1, err)
		}
	}
	for _, s := range scenarios {
		for _, step := range s.steps {
			if len(step.statuses) == 0 {
				t.Fatalf("%s:%d: no status is expected", file, step.line)
			}
		}
	}
	return scenarios
}

func readLine(scenarios *[]*scenario, at **step, number int, line string) error {
	word, rest, _ := strings.Cut(line, " ")
	step := *at
	switch {
	case line == "":
		*at = nil
	case strings.HasPrefix(line, "#"):
	case word == "===":
		*scenarios = append(*scenarios, &scenario{name: rest})
	case len(*scenarios) == 0:
		return fmt.Errorf("%q stands before the first scenario", line)
	case step == nil:
		*at = newStep(number, word, rest)
		s := (*scenarios)[len(*scenarios)-1]
		s.steps = append(s.steps, *at)
	default:
		return step.read(word, rest)
	}
	return nil
}

func newStep(number int, method, target string) *step {
	return &step{line: number, method: method, target: target, header: http.Header{}}
}

func (s *step) read(word, rest string) (err error) {
	switch word {
	case "body":
		s.body, s.hasBody = rest, true
	case "bodysize":
		n, err := strconv.Atoi(rest)
		if err != nil {
			return err
		}
		s.body, s.hasBody = strings.Repeat("x", n), true
	case "until":
		s.until = true
	case "->":
		for text := range strings.SplitSeq(rest, " or ") {
			status, err := strconv.Atoi(text)
			if err != nil {
				return err
			}
			s.statuses = append(s.statuses, status)
		}
	case "save":
		name, from, _ := strings.Cut(rest, " ")
		s.saves = append(s.saves, save{name, from})
	case "want":
		if text, ok := strings.CutPrefix(rest, "body "); ok {
			s.wants = append(s.wants, want{"", text})
		} else if name, ok := strings.CutPrefix(rest, "no header "); ok {
			s.wants = append(s.wants, want{name, ""})
		} else if header, ok := strings.CutPrefix(rest, "header "); ok {
			name, text, _ := strings.Cut(header, " ")
			s.wants = append(s.wants, want{name, text})
		} else {
			return fmt.Errorf("want what: %q", rest)
		}
	default:
		name, ok := strings.CutSuffix(word, ":")
		if !ok {
			return fmt.Errorf("%q is no part of a step", word)
		}
		s.header[name] = append(s.header[name], rest)
	}
	return err
}

// expect says what in the direct answer is not as the file says.
func (s *step) expect(a *answer) error {
	if !slices.Contains(s.statuses, a.status) {
		return fmt.Errorf("the API server answers %d, and the file expects %v: %.300s", a.status, s.statuses, a.body)
	}
	for _, w := range s.wants {
		values := a.header.Values(w.header)
		switch {
		case w.header == "":
			if !strings.Contains(string(a.body), w.text) {
				return fmt.Errorf("the API server's answer has no %q: %.600s", w.text, a.body)
			}
		case w.text == "":
			if len(values) > 0 {
				return fmt.Errorf("the API server sends %s: %q, and the file expects none", w.header, values)
			}
		case len(values) == 0 || w.text != "-" && !slices.ContainsFunc(values, func(v string) bool { return strings.Contains(v, w.text) }):
			return fmt.Errorf("the API server sends %s: %q, and the file expects %q", w.header, values, w.text)
		}
	}
	return nil
}

// keep saves what the step saves of an answer.
func (s *step) keep(a *answer, vars map[string]string) error {
	for _, save := range s.saves {
		if name, ok := strings.CutPrefix(save.from, "header:"); ok {
			vars[save.name] = a.header.Get(name)
		} else if save.from == "body" {
			vars[save.name] = string(a.body)
		} else {
			value, err := lookUp(a.body, save.from)
			if err != nil {
				return err
			}
			vars[save.name] = value
		}
		if vars[save.name] == "" {
			return fmt.Errorf("the answer has no %s", save.from)
		}
	}
	return nil
}

func lookUp(body []byte, path string) (string, error) {
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		return "", err
	}
	for key := range strings.SplitSeq(strings.TrimPrefix(path, "."), ".") {
		fields, _ := value.(map[string]any)
		value = fields[key]
	}
	text, _ := value.(string)
	return text, nil
}

var variable = regexp.MustCompile(`\$[a-z]+`)

func expand(text string, vars map[string]string) string {
	return variable.ReplaceAllStringFunc(text, func(name string) string {
		if value, ok := vars[name[1:]]; ok {
			return value
		}
		return name
	})
}
