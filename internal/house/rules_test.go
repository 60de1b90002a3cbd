package house

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestEveryPackageHasAComment(t *testing.T) {
	for _, p := range packages(t) {
		if p.Doc == "" && len(p.GoFiles) > 0 {
			t.Errorf("%s has no package comment: a reader must learn at the door what the room is for", p.room())
		}
		if doc := p.Doc; doc != "" && p.Name != "main" && !strings.HasPrefix(doc, "Package "+p.Name+" ") {
			t.Errorf("the comment of %s must begin with \"Package %s\": %q", p.room(), p.Name, firstLine(doc))
		}
	}
}

func TestNoDumpingGrounds(t *testing.T) {
	banned := regexp.MustCompile(`^(util|utils|utilities|common|helper|helpers|manager|managers|misc|shared|base|types|lib)$`)
	for _, p := range packages(t) {
		for _, name := range append(strings.Split(p.room(), "/"), p.Name) {
			if banned.MatchString(name) {
				t.Errorf("%s: %q says nothing of what is inside; keep code beside its only caller, or name the room by its subject", p.room(), name)
			}
		}
	}
}

func TestTestsDoNotSleep(t *testing.T) {
	for _, p := range packages(t) {
		eachFile(t, p, slices.Concat(p.TestGoFiles, p.XTestGoFiles), func(f *source) {
			f.uses("time", func(name, position string) {
				if name == "Sleep" {
					t.Errorf("%s sleeps: a test that waits for a length of time is slow and still fails by chance; use testing/synctest, an injected clock, or wait for the state itself", position)
				}
			})
		})
	}
}

// The operating system is passed in (cli.Env), so that every verb can be tested in process and no room is configured
// behind its caller's back.
func TestOperatingSystemIsPassedIn(t *testing.T) {
	banned := []string{"Args", "Exit", "Getenv", "LookupEnv", "Setenv", "Stdin", "Stdout", "Stderr"}
	// The shells of the house: cli makes the Env, a main hands it over. A benchmark is a main.
	allowed := []string{"cli", "cmd", "bench"}
	exceptions := map[string][]string{
		// A lab started by a test has no verb above it that could pass the environment on.
		"lab": {"Getenv", "LookupEnv", "Stderr"},
	}
	for _, p := range packages(t) {
		if withinAny(p.room(), allowed...) {
			continue
		}
		eachFile(t, p, p.GoFiles, func(f *source) {
			f.uses("os", func(name, position string) {
				if !slices.Contains(banned, name) {
					return
				}
				for room, names := range exceptions {
					if within(p.room(), room) && slices.Contains(names, name) {
						return
					}
				}
				t.Errorf("%s uses os.%s: the operating system is passed in through cli.Env, so that a verb can be tested in process", position, name)
			})
		})
	}
}

func TestNoContextOrLoggerInGlobals(t *testing.T) {
	for _, p := range packages(t) {
		eachFile(t, p, p.GoFiles, func(f *source) {
			f.calls("log/slog", func(name, position string) {
				switch name {
				case "Debug", "Info", "Warn", "Error", "SetDefault", "Default":
					t.Errorf("%s calls slog.%s: the logger is given to constructors, never taken from the process", position, name)
				}
			})
		})
	}
}

// A path of somebody's machine in a file that everybody gets is wrong everywhere else.
func TestNoPathsOfAWorkplace(t *testing.T) {
	workplace := regexp.MustCompile(`(^|[\s"'=(:` + "`" + `])(/work/|/home/[a-z]|/Users/[A-Za-z]|/root/(go|\.))`)
	root := moduleRoot(t)
	for _, name := range trackedFiles(t, root) {
		content, err := os.ReadFile(filepath.Join(root, name))
		if err != nil || bytes.IndexByte(content, 0) >= 0 || name == "internal/house/rules_test.go" {
			continue // deleted and not committed yet; binary; the pattern itself
		}
		number := 0
		for line := range bytes.Lines(content) {
			number++
			if match := workplace.Find(line); match != nil {
				t.Errorf("%s:%d names a path of one machine: %s", name, number, bytes.TrimSpace(match))
			}
		}
	}
}

// Unfinished business is an issue, not a comment.
func TestNoPromisesInCode(t *testing.T) {
	promise := regexp.MustCompile(`\b(TODO|FIXME|XXX)\b|t\.Skip\(|t\.SkipNow\(|t\.Skipf\(`)
	root := moduleRoot(t)
	for _, name := range trackedFiles(t, root) {
		if filepath.Ext(name) != ".go" || name == "internal/house/rules_test.go" {
			continue
		}
		content, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			continue // deleted and not committed yet
		}
		number := 0
		for line := range bytes.Lines(content) {
			number++
			if match := promise.Find(line); match != nil {
				t.Errorf("%s:%d has %q: what is not done is an issue, and a test that skips checks nothing", name, number, match)
			}
		}
	}
}

func TestLicence(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(moduleRoot(t), "LICENSE"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Apache License", "Version 2.0, January 2004", "END OF TERMS AND CONDITIONS"} {
		if !bytes.Contains(content, []byte(want)) {
			t.Errorf("LICENSE lacks %q: it must be the whole text of Apache-2.0", want)
		}
	}
}

func TestReadmeIsShort(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(moduleRoot(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if lines := bytes.Count(content, []byte("\n")); lines >= 80 {
		t.Errorf("README.md has %d lines, want under 80: a newcomer reads one screen or two", lines)
	}
}

func moduleRoot(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(strings.TrimSpace(string(out)))
}

// trackedFiles are the files of the repository, those not committed yet included.
func trackedFiles(t *testing.T, root string) []string {
	t.Helper()
	command := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	command.Dir = root
	out, err := command.Output()
	if err != nil {
		t.Fatalf("listing the repository's files: %v", err)
	}
	return strings.Split(strings.TrimRight(string(out), "\x00"), "\x00")
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
