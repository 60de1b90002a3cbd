package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Bounds on what a file may hold. A configuration is written by a person: what passes these is not one.
const (
	maxFileBytes = 1 << 20
	maxDocuments = 256
	// maxDepth bounds nesting; the deepest kind needs less than 10 levels.
	maxDepth = 64
	// maxNodes bounds the tree after aliases are followed, against "billion laughs".
	maxNodes = 100_000
)

const stdinName = "<stdin>"

// Load reads every document of a YAML file, or of stdin when path is "-". It returns either all documents, decoded
// strictly, defaulted and validated, or an error: Violations when the file is wrong, anything else when it could not
// be read. Empty documents are left out; a file without any document is a violation.
func Load(path string, stdin io.Reader) ([]Document, error) {
	source, data, err := read(path, stdin)
	if err != nil {
		return nil, err
	}
	return parse(source, data)
}

// LoadKind reads a file that holds exactly one document, of the kind of T.
func LoadKind[T v1alpha1.Object](path string, stdin io.Reader) (T, *Document, error) {
	var zero T
	docs, err := Load(path, stdin)
	if err != nil {
		return zero, nil, err
	}
	want := kindOf(reflect.TypeFor[T]())
	if len(docs) != 1 {
		second := &docs[1]
		return zero, nil, Violations{second.violation("", nil, fmt.Sprintf("the file must hold exactly one document, of kind %s; this is the second", want))}
	}
	object, ok := docs[0].Object.(T)
	if !ok {
		return zero, nil, Violations{docs[0].violation("kind", show(docs[0].Kind), "must be "+want)}
	}
	return object, &docs[0], nil
}

// kindOf names the kind of a Go type.
func kindOf(t reflect.Type) string {
	for _, kind := range v1alpha1.Kinds() {
		if object, _ := v1alpha1.New(kind); reflect.TypeOf(object) == t {
			return kind
		}
	}
	return t.String()
}

func read(path string, stdin io.Reader) (source string, data []byte, err error) {
	source = path
	var r io.Reader
	switch {
	case path == "-" && stdin == nil:
		return "", nil, errors.New("reading standard input: there is none")
	case path == "-":
		source, r = stdinName, stdin
	default:
		f, err := os.Open(path)
		if err != nil {
			return "", nil, fmt.Errorf("reading configuration: %w", err)
		}
		defer f.Close()
		r = f
	}
	data, err = io.ReadAll(io.LimitReader(r, maxFileBytes+1))
	if err != nil {
		return "", nil, fmt.Errorf("reading configuration %s: %w", source, err)
	}
	if len(data) > maxFileBytes {
		return "", nil, Violations{{File: source, Rule: fmt.Sprintf("the file must not be larger than %d bytes", maxFileBytes)}}
	}
	return source, data, nil
}

// Parse reads documents that come from elsewhere than a file, as Load does; source names them in errors.
func Parse(source string, data []byte) ([]Document, error) {
	if len(data) > maxFileBytes {
		return nil, Violations{{File: source, Rule: fmt.Sprintf("it must not be larger than %d bytes", maxFileBytes)}}
	}
	return parse(source, data)
}

func parse(source string, data []byte) ([]Document, error) {
	var docs []Document
	var all Violations
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var root yaml.Node
		err := decoder.Decode(&root)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			// After a syntax error the rest of the file means nothing.
			return nil, append(all, syntaxViolation(source, data, err)).asError()
		}
		if node := resolve(&root); node == nil || node.ShortTag() == "!!null" {
			continue
		}
		if len(docs) == maxDocuments {
			return nil, Violations{{File: source, Line: root.Line, Rule: fmt.Sprintf("the file must not hold more than %d documents", maxDocuments)}}
		}
		doc, violations := decodeDocument(source, &root)
		all = append(all, violations...)
		docs = append(docs, doc)
	}
	if len(docs) == 0 && len(all) == 0 {
		all = append(all, &Violation{File: source, Rule: "the file holds no document; it must start with apiVersion and kind"})
	}
	if err := all.asError(); err != nil {
		return nil, err
	}
	return docs, nil
}

var (
	yamlLine      = regexp.MustCompile(`(?s)^line (\d+): (.*)$`)
	unknownAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)
	// The library counts lines from 0 in what its parser says, from 1 in what its scanner says; these are the parser's.
	countedFromZero = regexp.MustCompile(`^did not find expected (',' or|node content|key$|'-' indicator|<document start>)`)
)

func syntaxViolation(source string, data []byte, err error) *Violation {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	v := &Violation{File: source}
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		v.Line, _ = strconv.Atoi(m[1])
		text = m[2]
		if countedFromZero.MatchString(text) {
			v.Line++
		}
	} else if m := unknownAnchor.FindStringSubmatch(text); m != nil {
		if before, _, found := bytes.Cut(data, []byte("*"+m[1])); found {
			v.Line = bytes.Count(before, []byte("\n")) + 1
		}
	}
	v.Rule = "not valid YAML: " + text
	return v
}

// decodeDocument runs the fixed order on one document. Validation runs only on what decoded cleanly: its findings about
// fields that were refused would be noise.
func decodeDocument(source string, root *yaml.Node) (Document, Violations) {
	doc := Document{Source: source, root: root}
	node := resolve(root)
	fail := func(field string, value *string, rule string) (Document, Violations) {
		return doc, Violations{doc.violation(field, value, rule)}
	}
	if rule := measure(root); rule != "" {
		return fail("", nil, rule)
	}
	if node.Kind != yaml.MappingNode {
		return fail("", nil, "a document must be a mapping that starts with apiVersion and kind")
	}
	for _, name := range []string{"apiVersion", "kind"} {
		if _, value := member(node, name); value == nil || resolve(value).ShortTag() != "!!str" {
			return fail(name, nil, "required: every document says what it is, apiVersion: "+v1alpha1.APIVersion+" and its kind")
		}
	}
	_, version := member(node, "apiVersion")
	if v := resolve(version).Value; v != v1alpha1.APIVersion {
		return fail("apiVersion", &v, "must be "+v1alpha1.APIVersion)
	}
	_, kind := member(node, "kind")
	doc.Kind = resolve(kind).Value
	object, ok := v1alpha1.New(doc.Kind)
	if !ok {
		return fail("kind", &doc.Kind, "must be one of "+strings.Join(v1alpha1.Kinds(), ", "))
	}
	d := decoder{source: source}
	d.decode(node, reflect.ValueOf(object).Elem(), nil)
	if len(d.violations) > 0 {
		return doc, d.violations
	}
	object.SetDefaults()
	var violations Violations
	for _, e := range object.Validate() {
		value, rule := ruleOf(e)
		violations = append(violations, doc.violation(e.Field, value, rule))
	}
	doc.Object = object
	return doc, violations
}

// measure walks the tree with aliases followed and returns the rule it breaks, or "".
func measure(root *yaml.Node) string {
	nodes := 0
	var walk func(n *yaml.Node, depth int) string
	walk = func(n *yaml.Node, depth int) string {
		n = resolve(n)
		if n == nil {
			return ""
		}
		if nodes++; nodes > maxNodes {
			return fmt.Sprintf("the document must not hold more than %d values, aliases followed", maxNodes)
		}
		if depth > maxDepth {
			return fmt.Sprintf("the document must not be nested deeper than %d levels", maxDepth)
		}
		for _, child := range n.Content {
			if rule := walk(child, depth+1); rule != "" {
				return rule
			}
		}
		return ""
	}
	return walk(root, 0)
}
