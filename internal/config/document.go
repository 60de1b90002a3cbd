package config

import (
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Document is one decoded, defaulted and validated object, with the lines it came from.
type Document struct {
	// Source is the path as the user gave it, "<stdin>" for standard input.
	Source string
	// Kind is the object's kind.
	Kind string
	// Object is not changed any more.
	Object v1alpha1.Object

	root *yaml.Node
}

// Locate returns the line of a field, given its path as field.Path prints it (upstreams[0].url). A field that is not in
// the file has the line of its nearest parent that is.
func (d *Document) Locate(path string) (line int) {
	return locate(d.root, path)
}

// Errorf reports a violation found after validation (an unreadable key, an expired certificate) the way validation
// itself does. A nil value is left out of the message.
func (d *Document) Errorf(path *field.Path, value any, rule string) error {
	return d.violation(path.String(), show(value), rule)
}

func (d *Document) violation(path string, value *string, rule string) *Violation {
	return &Violation{File: d.Source, Line: d.Locate(path), Field: path, Value: value, Rule: rule}
}

// locate walks the tree along the path and returns the line of the last step it finds.
func locate(root *yaml.Node, path string) int {
	node := resolve(root)
	if node == nil {
		return 0
	}
	line := node.Line
	for _, step := range splitPath(path) {
		var key, value *yaml.Node
		switch node.Kind {
		case yaml.MappingNode:
			key, value = member(node, step)
		case yaml.SequenceNode:
			if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(node.Content) {
				value = node.Content[i]
				key = value
			}
		}
		if value == nil {
			return line
		}
		line = key.Line
		node = resolve(value)
	}
	return line
}

// member finds a mapping's entry, or nil.
func member(mapping *yaml.Node, name string) (key, value *yaml.Node) {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == name {
			return mapping.Content[i], mapping.Content[i+1]
		}
	}
	return nil, nil
}

// resolve follows aliases and enters a document; the depth of alias chains is bounded by YAML itself, which cannot
// name an alias of an alias.
func resolve(node *yaml.Node) *yaml.Node {
	for node != nil {
		switch {
		case node.Kind == yaml.AliasNode:
			node = node.Alias
		case node.Kind == yaml.DocumentNode && len(node.Content) == 1:
			node = node.Content[0]
		default:
			return node
		}
	}
	return nil
}

// splitPath cuts a.b[0].c["k.l"] into its steps. Keys in brackets may hold dots.
func splitPath(path string) []string {
	var steps []string
	for path != "" {
		if rest, ok := strings.CutPrefix(path, "["); ok {
			key, after, _ := strings.Cut(rest, "]")
			steps = append(steps, strings.Trim(key, `"`))
			path = strings.TrimPrefix(after, ".")
			continue
		}
		end := strings.IndexAny(path, ".[")
		if end < 0 {
			return append(steps, path)
		}
		if end > 0 {
			steps = append(steps, path[:end])
		}
		path = path[end:]
		path = strings.TrimPrefix(path, ".")
	}
	return steps
}
