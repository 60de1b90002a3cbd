package bake

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// What CoreDNS's cache plugin does when it is not told otherwise, in v1.15.
const (
	defaultSuccess = time.Hour
	defaultDenial  = 30 * time.Minute
	defaultStale   = time.Hour
)

// defaultRecord is the TTL of a cluster's names when the kubernetes plugin is given none.
const defaultRecord = 5 * time.Second

// maxTokens and maxDepth bound a Corefile.
const (
	maxTokens = 20_000
	maxDepth  = 16
)

// Corefile finds how long each cache of a CoreDNS configuration, and the clients of its names, may answer from what they have.
// unread are parts that are not in the text: imports of files. name is where the text is from.
func Corefile(name, text string) (ttls []TTL, unread []string, err error) {
	tokens, err := tokenize(text)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the Corefile of %s: %w", name, err)
	}
	p := parser{tokens: tokens, snippets: map[string][]directive{}}
	blocks, err := p.servers()
	if err != nil {
		return nil, nil, fmt.Errorf("reading the Corefile of %s: %w", name, err)
	}
	for _, block := range blocks {
		where := name + " " + strings.Join(block.words, " ")
		for _, d := range block.body {
			switch d.words[0] {
			case "cache":
				ttls = append(ttls, cacheTTLs(where, d)...)
			case "kubernetes", "seakeep":
				ttls = append(ttls, TTL{Source: where + ": clients of " + d.words[0] + "'s names", TTL: recordTTL(d)})
			}
		}
	}
	return ttls, p.unread, nil
}

// cacheTTLs are a cache's: of answers, of denials, and what serve_stale adds to the longer of them.
func cacheTTLs(where string, d directive) []TTL {
	success, denial, stale := defaultSuccess, defaultDenial, time.Duration(0)
	if len(d.words) > 1 {
		if ttl, ok := seconds(d.words[1]); ok {
			success, denial = ttl, ttl
		}
	}
	for _, o := range d.body {
		switch o.words[0] {
		case "success", "denial":
			// CAPACITY [TTL] [MINTTL]
			if len(o.words) > 2 {
				if ttl, ok := seconds(o.words[2]); ok {
					if o.words[0] == "success" {
						success = ttl
					} else {
						denial = ttl
					}
				}
			}
			if len(o.words) > 3 {
				if least, ok := seconds(o.words[3]); ok {
					success = max(success, least)
				}
			}
		case "serve_stale":
			stale = defaultStale
			if len(o.words) > 1 {
				if d, err := time.ParseDuration(o.words[1]); err == nil && d > 0 {
					stale = d
				}
			}
		}
	}
	found := []TTL{{Source: where + ": cache", TTL: max(success, denial)}}
	if stale > 0 {
		found = append(found, TTL{Source: where + ": cache with serve_stale", TTL: max(success, denial) + stale})
	}
	return found
}

func recordTTL(d directive) time.Duration {
	for _, o := range d.body {
		if o.words[0] == "ttl" && len(o.words) > 1 {
			if ttl, ok := seconds(o.words[1]); ok {
				return ttl
			}
		}
	}
	return defaultRecord
}

func seconds(text string) (time.Duration, bool) {
	n, err := strconv.ParseUint(text, 10, 31)
	return time.Duration(n) * time.Second, err == nil
}

// directive is a line, and its block if it has one. A server block is one too.
type directive struct {
	words []string
	body  []directive
}

type token struct {
	text string
	line int
}

// tokenize splits a Caddyfile: words, quoted ones, comments from a # that begins a word.
func tokenize(text string) ([]token, error) {
	var tokens []token
	line := 1
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c == '\n':
			line++
			i++
		case c == ' ' || c == '\t' || c == '\r':
			i++
		case c == '#':
			for i < len(text) && text[i] != '\n' {
				i++
			}
		case c == '"':
			end := i + 1
			for end < len(text) && text[end] != '"' {
				if text[end] == '\\' {
					end++
				}
				end++
			}
			if end >= len(text) {
				return nil, fmt.Errorf("line %d: a quote is not closed", line)
			}
			tokens = append(tokens, token{strings.ReplaceAll(text[i+1:end], `\"`, `"`), line})
			line += strings.Count(text[i:end], "\n")
			i = end + 1
		default:
			end := i
			for end < len(text) && !strings.ContainsRune(" \t\r\n", rune(text[end])) {
				end++
			}
			tokens = append(tokens, token{text[i:end], line})
			i = end
		}
		if len(tokens) > maxTokens {
			return nil, fmt.Errorf("it has more than %d words", maxTokens)
		}
	}
	return tokens, nil
}

type parser struct {
	tokens   []token
	at       int
	snippets map[string][]directive
	unread   []string
	imported int
}

// servers reads server blocks and snippets until the end.
func (p *parser) servers() ([]directive, error) {
	var blocks []directive
	for p.at < len(p.tokens) {
		first := p.tokens[p.at]
		var names []string
		for p.at < len(p.tokens) && p.tokens[p.at].text != "{" {
			if p.tokens[p.at].text == "}" {
				return nil, fmt.Errorf("line %d: a brace closes nothing", p.tokens[p.at].line)
			}
			names = append(names, strings.TrimSuffix(p.tokens[p.at].text, ","))
			p.at++
		}
		if p.at == len(p.tokens) && len(names) > 1 && names[0] == "import" {
			p.unread = append(p.unread, "import "+names[1])
			return blocks, nil
		}
		if p.at == len(p.tokens) {
			return nil, fmt.Errorf("line %d: %s has no block", first.line, first.text)
		}
		p.at++
		body, err := p.block(0)
		if err != nil {
			return nil, err
		}
		if len(names) == 1 && strings.HasPrefix(names[0], "(") && strings.HasSuffix(names[0], ")") {
			p.snippets[strings.Trim(names[0], "()")] = body
			continue
		}
		blocks = append(blocks, directive{words: names, body: body})
	}
	return blocks, nil
}

// block reads directives up to the closing brace. A directive ends with its line.
func (p *parser) block(depth int) ([]directive, error) {
	if depth > maxDepth {
		return nil, errors.New("blocks are nested too deeply")
	}
	var all []directive
	for p.at < len(p.tokens) {
		t := p.tokens[p.at]
		if t.text == "}" {
			p.at++
			return all, nil
		}
		d := directive{}
		for p.at < len(p.tokens) && p.tokens[p.at].line == t.line && p.tokens[p.at].text != "{" && p.tokens[p.at].text != "}" {
			d.words = append(d.words, p.tokens[p.at].text)
			p.at++
		}
		if p.at < len(p.tokens) && p.tokens[p.at].line == t.line && p.tokens[p.at].text == "{" {
			p.at++
			body, err := p.block(depth + 1)
			if err != nil {
				return nil, err
			}
			d.body = body
		}
		switch {
		case len(d.words) == 0:
			return nil, fmt.Errorf("line %d: a block without a name", t.line)
		case d.words[0] == "import" && len(d.words) > 1:
			snippet, ok := p.snippets[d.words[1]]
			if !ok {
				p.unread = append(p.unread, "import "+d.words[1])
				continue
			}
			if p.imported += len(snippet); p.imported > maxTokens {
				return nil, errors.New("it imports too much")
			}
			all = append(all, snippet...)
		default:
			all = append(all, d)
		}
	}
	return nil, errors.New("a block is not closed")
}
