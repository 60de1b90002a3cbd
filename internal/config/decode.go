package config

import (
	"encoding"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// decoder fills a Go value from a YAML tree and collects every violation with its line. The libraries that go through
// JSON stop at the first wrong type and know no line, which is why this walks the tree itself. The tree has passed
// measure, so recursion is bounded.
type decoder struct {
	source     string
	violations Violations
}

var (
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func (d *decoder) refuse(node *yaml.Node, path *field.Path, value *string, rule string) {
	d.violations = append(d.violations, &Violation{
		File: d.source, Line: node.Line, Field: pathString(path), Value: value, Rule: rule,
	})
}

func pathString(path *field.Path) string {
	if path == nil {
		return ""
	}
	return path.String()
}

// decode sets v, which must be settable, from node.
func (d *decoder) decode(node *yaml.Node, v reflect.Value, path *field.Path) {
	at := node
	node = resolve(node)
	if node == nil || node.ShortTag() == "!!null" {
		return // as in JSON, null leaves the field as if it were not written
	}
	if v.Addr().Type().Implements(jsonUnmarshaler) || v.Addr().Type().Implements(textUnmarshaler) {
		d.unmarshal(at, node, v, path)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		target := reflect.New(v.Type().Elem())
		d.decode(at, target.Elem(), path)
		v.Set(target)
	case reflect.Struct:
		d.decodeStruct(node, v, path)
	case reflect.Slice:
		d.decodeSlice(node, v, path)
	case reflect.Map:
		d.decodeMap(node, v, path)
	case reflect.Interface:
		plain, err := plainValue(node)
		if err != nil || v.NumMethod() != 0 {
			d.refuse(at, path, show(node.Value), "must be a plain value")
			return
		}
		if plain != nil {
			v.Set(reflect.ValueOf(plain))
		}
	default:
		d.decodeScalar(at, node, v, path)
	}
}

func (d *decoder) decodeStruct(node *yaml.Node, v reflect.Value, path *field.Path) {
	if node.Kind != yaml.MappingNode {
		d.refuse(node, path, scalarText(node), "must be a mapping of fields")
		return
	}
	fields := fieldsOf(v.Type())
	seen := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		name := resolve(key).Value
		child := childPath(path, name)
		if line, dup := seen[name]; dup {
			d.refuse(key, child, nil, fmt.Sprintf("duplicate field: already set in line %d", line))
			continue
		}
		seen[name] = key.Line
		f, known := fields[name]
		if !known {
			d.refuse(key, child, nil, "unknown field"+suggest(name, fields))
			continue
		}
		d.decode(value, v.FieldByIndex(f), child)
	}
}

func (d *decoder) decodeSlice(node *yaml.Node, v reflect.Value, path *field.Path) {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		d.unmarshal(node, node, v, path)
		return
	}
	if node.Kind != yaml.SequenceNode {
		d.refuse(node, path, scalarText(node), "must be a list")
		return
	}
	items := reflect.MakeSlice(v.Type(), len(node.Content), len(node.Content))
	for i, item := range node.Content {
		d.decode(item, items.Index(i), indexPath(path, i))
	}
	v.Set(items)
}

func (d *decoder) decodeMap(node *yaml.Node, v reflect.Value, path *field.Path) {
	if node.Kind != yaml.MappingNode {
		d.refuse(node, path, scalarText(node), "must be a mapping")
		return
	}
	if v.Type().Key().Kind() != reflect.String {
		panic("BUG: kinds have maps with string keys only, not " + v.Type().String())
	}
	m := reflect.MakeMapWithSize(v.Type(), len(node.Content)/2)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := resolve(node.Content[i]), node.Content[i+1]
		child := keyPath(path, key.Value)
		if key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str" {
			d.refuse(key, child, nil, "a key must be a string: quote it")
			continue
		}
		name := reflect.ValueOf(key.Value).Convert(v.Type().Key())
		if m.MapIndex(name).IsValid() {
			d.refuse(key, child, nil, "duplicate key")
			continue
		}
		element := reflect.New(v.Type().Elem()).Elem()
		d.decode(value, element, child)
		m.SetMapIndex(name, element)
	}
	v.Set(m)
}

func (d *decoder) decodeScalar(at, node *yaml.Node, v reflect.Value, path *field.Path) {
	tag := node.ShortTag()
	refuse := func(rule string) { d.refuse(at, path, scalarText(node), rule) }
	if node.Kind != yaml.ScalarNode {
		refuse("must be a single value, not a " + kindName(node))
		return
	}
	switch v.Kind() {
	case reflect.String:
		if tag != "!!str" && tag != "!!timestamp" {
			refuse("must be a string: quote it")
			return
		}
		v.SetString(node.Value)
	case reflect.Bool:
		b, err := strconv.ParseBool(node.Value)
		if tag != "!!bool" || err != nil {
			refuse("must be true or false")
			return
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		var n int64
		if tag != "!!int" || node.Decode(&n) != nil || v.OverflowInt(n) {
			refuse("must be a whole number")
			return
		}
		v.SetInt(n)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		var n uint64
		if tag != "!!int" || node.Decode(&n) != nil || v.OverflowUint(n) {
			refuse("must be a whole number, not negative")
			return
		}
		v.SetUint(n)
	case reflect.Float32, reflect.Float64:
		var n float64
		if tag != "!!int" && tag != "!!float" || node.Decode(&n) != nil || math.IsNaN(n) || math.IsInf(n, 0) {
			refuse("must be a finite number")
			return
		}
		v.SetFloat(n)
	default:
		panic("BUG: no kind has a field of type " + v.Type().String())
	}
}

// unmarshal hands the value to the type's own method, through JSON, which is what these types know.
func (d *decoder) unmarshal(at, node *yaml.Node, v reflect.Value, path *field.Path) {
	plain, err := plainValue(node)
	if err == nil {
		var data []byte
		if data, err = json.Marshal(plain); err == nil {
			err = json.Unmarshal(data, v.Addr().Interface())
		}
	}
	if err != nil {
		d.refuse(at, path, scalarText(node), "must be "+typeName(v.Type())+": "+tidy(err))
	}
}

// tidy strips what JSON's errors say of Go.
func tidy(err error) string {
	s := strings.TrimPrefix(err.Error(), "json: ")
	if strings.HasPrefix(s, "cannot unmarshal") {
		return "wrong type"
	}
	return s
}

// plainValue turns a tree into the maps, lists and scalars of JSON. Duplicate keys are an error.
func plainValue(node *yaml.Node) (any, error) {
	node = resolve(node)
	switch {
	case node == nil:
		return nil, nil
	case node.Kind == yaml.MappingNode:
		m := make(map[string]any, len(node.Content)/2)
		for i := 0; i+1 < len(node.Content); i += 2 {
			name := resolve(node.Content[i]).Value
			if _, dup := m[name]; dup {
				return nil, fmt.Errorf("line %d: duplicate key %q", node.Content[i].Line, name)
			}
			value, err := plainValue(node.Content[i+1])
			if err != nil {
				return nil, err
			}
			m[name] = value
		}
		return m, nil
	case node.Kind == yaml.SequenceNode:
		list := make([]any, 0, len(node.Content))
		for _, item := range node.Content {
			value, err := plainValue(item)
			if err != nil {
				return nil, err
			}
			list = append(list, value)
		}
		return list, nil
	case node.ShortTag() == "!!str", node.ShortTag() == "!!timestamp":
		return node.Value, nil
	default:
		var value any
		err := node.Decode(&value)
		return value, err
	}
}

func scalarText(node *yaml.Node) *string {
	if node.Kind != yaml.ScalarNode {
		return nil
	}
	return show(node.Value)
}

func kindName(node *yaml.Node) string {
	if node.Kind == yaml.SequenceNode {
		return "list"
	}
	return "mapping"
}

func childPath(path *field.Path, name string) *field.Path {
	if path == nil {
		return field.NewPath(name)
	}
	return path.Child(name)
}

func indexPath(path *field.Path, i int) *field.Path {
	if path == nil {
		return field.NewPath("").Index(i)
	}
	return path.Index(i)
}

func keyPath(path *field.Path, key string) *field.Path {
	if path == nil {
		return field.NewPath(key)
	}
	return path.Key(key)
}
