package config

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Schema returns the JSON Schema (draft 2020-12) of a kind, for editors: types, closed sets, descriptions, which fields
// must be written, and no others allowed. It is necessary, not sufficient: rules that join fields are in Validate only.
func Schema(kind string) ([]byte, error) {
	object, ok := v1alpha1.New(kind)
	if !ok {
		return nil, unknownKind(kind)
	}
	t := reflect.TypeOf(object).Elem()
	s := schemaWriter{definitions: map[string]any{}}
	root := s.object(t)
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["$id"] = "https://" + v1alpha1.APIVersion + "/" + kind + ".json"
	root["title"] = kind
	properties := root["properties"].(map[string]any)
	properties["apiVersion"] = map[string]any{"const": v1alpha1.APIVersion}
	properties["kind"] = map[string]any{"const": kind}
	if len(s.definitions) > 0 {
		root["$defs"] = s.definitions
	}
	data, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(data, '\n'), nil
}

func unknownKind(kind string) error {
	return fmt.Errorf("kind must be one of %s, got %q", strings.Join(v1alpha1.Kinds(), ", "), kind)
}

type schemaWriter struct {
	definitions map[string]any
}

func (s *schemaWriter) object(t reflect.Type) map[string]any {
	properties := map[string]any{}
	required := []string{}
	for _, f := range fieldList(t) {
		schema := s.value(f.field.Type)
		if text := docs().ofField(f.owner, f.field); text != "" {
			schema["description"] = text
		}
		properties[f.name] = schema
		if !f.optional {
			required = append(required, f.name)
		}
	}
	schema := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	if text := docs().types[t.Name()]; text != "" {
		schema["description"] = text
	}
	if len(required) > 0 {
		schema["required"] = required
	}
	return schema
}

func (s *schemaWriter) value(t reflect.Type) map[string]any {
	switch t {
	case durationType:
		return map[string]any{"type": "string", "pattern": `^[-+]?(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h))+$`}
	case quantityType:
		return map[string]any{"type": []string{"string", "number"}}
	case timeType:
		return map[string]any{"type": "string", "format": "date-time"}
	case countType:
		return map[string]any{"type": []string{"integer", "string"}, "pattern": "^[0-9]{1,3}%$"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.value(t.Elem())
	case reflect.Struct:
		if _, known := s.definitions[t.Name()]; !known {
			s.definitions[t.Name()] = nil // a type may contain itself
			s.definitions[t.Name()] = s.object(t)
		}
		return map[string]any{"$ref": "#/$defs/" + t.Name()}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return map[string]any{}
		}
		return map[string]any{"type": "array", "items": s.value(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": s.value(t.Elem())}
	case reflect.String:
		schema := map[string]any{"type": "string"}
		if values := docs().enum(t); len(values) > 0 {
			schema["enum"] = values
		}
		return schema
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return map[string]any{"type": "integer"}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return map[string]any{"type": "integer", "minimum": 0}
	case reflect.Float32, reflect.Float64:
		return map[string]any{"type": "number"}
	default:
		return map[string]any{}
	}
}

// listedField is a field as it stands in a file.
type listedField struct {
	name     string
	optional bool
	owner    reflect.Type        // the struct that declares it
	field    reflect.StructField // its Index leads there from the outermost struct
}

// fieldList is a struct's fields in the order of the source, embedded structs in place.
func fieldList(t reflect.Type) []listedField {
	var list []listedField
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous && f.Type.Kind() == reflect.Struct {
			for _, inner := range fieldList(f.Type) {
				inner.field.Index = append([]int{i}, inner.field.Index...)
				list = append(list, inner)
			}
			continue
		}
		if name, optional := jsonName(f); f.IsExported() && name != "" {
			list = append(list, listedField{name: name, optional: optional, owner: t, field: f})
		}
	}
	return list
}
