package cli

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What the documentation tells people to type must exist: in an outage nobody has time to find out the real name of a
// flag. Lines of sh blocks and inline code that begin with "seakeep" are held against the command tree.
func TestCommandsInDocsExist(t *testing.T) {
	inline := regexp.MustCompile("`(?:bin/)?(seakeep [^`]+)`")
	checked := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != ".." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "out" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, line := range shellLines(string(content)) {
			checked++
			checkCommand(t, path, line)
		}
		for _, match := range inline.FindAllSubmatch(content, -1) {
			checked++
			checkCommand(t, path, string(match[1]))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if checked == 0 {
		t.Error("no command was found")
	}
}

// shellLines are the lines of sh blocks that call seakeep, continued lines joined.
func shellLines(markdown string) []string {
	var lines []string
	inBlock := false
	markdown = strings.ReplaceAll(markdown, "\\\n", " ")
	for line := range strings.Lines(markdown) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "```") {
			inBlock = line == "```sh"
			continue
		}
		line = strings.TrimPrefix(strings.TrimPrefix(line, "$ "), "bin/")
		if inBlock && strings.HasPrefix(line, "seakeep ") {
			lines = append(lines, line)
		}
	}
	return lines
}

func checkCommand(t *testing.T, path, line string) {
	t.Helper()
	line, _, _ = strings.Cut(line, " #")
	line, _, _ = strings.Cut(line, " | ")
	line, _, _ = strings.Cut(line, " > ")
	args := splitWords(line)[1:]
	// In running text, alternatives (throttle|block), capitals (COMMAND) and dots stand for something else.
	for i, arg := range args {
		if strings.ContainsAny(arg, "|…[<{") || strings.HasSuffix(arg, "...") || arg == strings.ToUpper(arg) && !strings.HasPrefix(arg, "-") {
			args = args[:i]
			break
		}
	}
	root := newRoot(&Env{Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{}, Getenv: func(string) string { return "" }})
	root.InitDefaultCompletionCmd(args...)
	root.InitDefaultHelpFlag()
	cmd, rest, err := root.Find(args)
	if err != nil {
		t.Errorf("%s: %q: %v", path, line, err)
		return
	}
	if cmd.HasSubCommands() && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		t.Errorf("%s: %q: %s has no command %q", path, line, cmd.CommandPath(), rest[0])
		return
	}
	cmd.InitDefaultHelpFlag()
	if err := cmd.ParseFlags(rest); err != nil && !strings.Contains(err.Error(), "flag needs an argument") && !strings.Contains(err.Error(), "help requested") {
		t.Errorf("%s: %q: %v", path, line, err)
	}
}

// splitWords splits a line as a shell would, as far as the documentation needs it: quotes, no escapes.
func splitWords(line string) []string {
	var words []string
	var word strings.Builder
	quote, inWord := rune(0), false
	for _, r := range line {
		switch {
		case quote != 0:
			if r == quote {
				quote = 0
			} else {
				word.WriteRune(r)
			}
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == ' ':
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words
}
