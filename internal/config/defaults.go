package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Defaults returns a kind as a commented YAML document: what must be written, with empty values to fill in; what has a
// default, with it; everything else commented out, so that the whole of the kind can be seen and the text is still one
// valid document once the empty values are filled.
func Defaults(kind string) ([]byte, error) {
	object, ok := v1alpha1.New(kind)
	if !ok {
		return nil, unknownKind(kind)
	}
	object.SetDefaults()
	v := reflect.ValueOf(object).Elem()
	w := defaultsWriter{open: map[reflect.Type]bool{}}
	w.comment(docs().types[v.Type().Name()], "")
	fmt.Fprintf(&w.b, "apiVersion: %s\nkind: %s\n", v1alpha1.APIVersion, kind)
	w.fields(v, "", false)
	return w.b.Bytes(), nil
}

type defaultsWriter struct {
	b    bytes.Buffer
	open map[reflect.Type]bool // being written: a type may contain itself
}

// comment writes text as comment lines. Nested in something commented out they get a second mark, so that taking one
// mark away from every line gives valid YAML.
func (w *defaultsWriter) comment(text, prefix string) {
	for line := range strings.Lines(text) {
		w.b.WriteString(strings.TrimRight(prefix+"# "+strings.TrimRight(line, "\n"), " ") + "\n")
	}
}

// fields writes a struct. off is true inside what is commented out; prefix is the indentation, with the mark.
func (w *defaultsWriter) fields(v reflect.Value, prefix string, off bool) {
	w.open[v.Type()] = true
	defer delete(w.open, v.Type())
	for _, f := range fieldList(v.Type()) {
		if f.name == "apiVersion" || f.name == "kind" {
			continue
		}
		if !off && prefix == "" {
			w.b.WriteByte('\n')
		}
		w.comment(docs().ofField(f.owner, f.field), prefix)
		if values := docs().enum(element(f.field.Type)); len(values) > 0 {
			w.comment("One of: "+strings.Join(values, ", ")+".", prefix)
		}
		w.field(f, v.FieldByIndex(f.field.Index), prefix, off)
	}
}

func (w *defaultsWriter) field(f listedField, v reflect.Value, prefix string, off bool) {
	if !off && f.optional && v.IsZero() {
		// The mark stands before the indentation, as editors toggle it.
		prefix, off = "#"+prefix, true
	}
	t := element(f.field.Type)
	list := f.field.Type.Kind() == reflect.Slice
	switch {
	case !isPlainStruct(t):
		note := ""
		if !f.optional && v.IsZero() {
			note = " # required"
		}
		fmt.Fprintf(&w.b, "%s%s: %s%s\n", prefix, f.name, written(v), note)
	case w.open[t]:
		fmt.Fprintf(&w.b, "%s%s: … # as above\n", prefix, f.name)
	case list:
		fmt.Fprintf(&w.b, "%s%s:\n%s- \n", prefix, f.name, prefix)
		w.trimLastSpace()
		w.fields(reflect.New(t).Elem(), prefix+"  ", off)
	default:
		fmt.Fprintf(&w.b, "%s%s:\n", prefix, f.name)
		w.fields(filled(v, t), prefix+"  ", off)
	}
}

func (w *defaultsWriter) trimLastSpace() {
	w.b.Truncate(w.b.Len() - 2)
	w.b.WriteByte('\n')
}

// filled follows a pointer; a nil one becomes an empty value to show the fields of.
func filled(v reflect.Value, t reflect.Type) reflect.Value {
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return reflect.New(t).Elem()
		}
		v = v.Elem()
	}
	return v
}

// element is the type under pointers and lists.
func element(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t
}

// isPlainStruct is true for a struct that is written as its fields.
func isPlainStruct(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(jsonUnmarshaler) && !reflect.PointerTo(t).Implements(textUnmarshaler)
}

// written is a value in one line of YAML; JSON is.
func written(v reflect.Value) string {
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v = reflect.Zero(v.Type().Elem())
			if v.Type() == durationType {
				return `""`
			}
			continue
		}
		v = v.Elem()
	}
	switch {
	case v.Kind() == reflect.Slice && v.Len() == 0:
		return "[]"
	case v.Kind() == reflect.Map && v.Len() == 0:
		return "{}"
	}
	data, err := json.Marshal(v.Interface())
	if err != nil {
		panic("BUG: a default that cannot be written: " + err.Error())
	}
	return string(data)
}

// Commented puts a comment mark before every line, for what is in force without being written in any file.
func Commented(text []byte) []byte {
	var b bytes.Buffer
	for line := range bytes.Lines(text) {
		b.WriteByte('#')
		if len(bytes.TrimSpace(line)) > 0 {
			b.WriteByte(' ')
		}
		b.Write(line)
	}
	return b.Bytes()
}
