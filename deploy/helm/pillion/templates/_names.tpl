{{/* Names do not depend on the release's: a cluster has one Pillion, and a second one must not come up beside it. Helm
     itself labels what it manages; the kustomization, which is made of this, is not Helm's. */}}

{{- define "pillion.labels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/part-of: pillion
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- end }}

{{- define "pillion.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{/* What every pod of Pillion has. */}}
{{- define "pillion.pullSecrets" -}}
{{- with .Values.image.pullSecrets -}}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "pillion.caHost" -}}
pillion-ca.{{ .Release.Namespace }}.svc
{{- end }}

{{- define "pillion.caAddress" -}}
{{- if .Values.ca.enabled -}}
{{ include "pillion.caHost" . }}:15012
{{- else -}}
{{ required "ca.address is needed where ca.enabled is false: host:port of an authority that speaks Istio's protocol, istiod.istio-system.svc:15012 for example" .Values.ca.address }}
{{- end }}
{{- end }}

{{/* Whether an AuthorizationPolicy has so few rules and entries that looking at each of them costs the API server no time to speak of. */}}
{{- define "pillion.fewRules" -}}
!has(object.spec) || object.spec == null || !has(object.spec.rules) || object.spec.rules == null ||
(size(object.spec.rules) <= 256 && object.spec.rules.map(rule,
  (has(rule.from) && rule.from != null ? size(rule.from) : 0) +
  (has(rule.to) && rule.to != null ? size(rule.to) : 0) +
  (has(rule.when) && rule.when != null ? size(rule.when) : 0)).sum() <= 256)
{{- end }}

{{/* Whether the lists of such a policy have few values in all. */}}
{{- define "pillion.fewValues" -}}
{{- /* A policy of too many entries is refused for those: its values are not counted. */}}
!({{ include "pillion.fewRules" . }}) || !has(object.spec) || object.spec == null || !has(object.spec.rules) || object.spec.rules == null ||
object.spec.rules.map(rule,
  (has(rule.from) && rule.from != null ? rule.from : []).map(from, has(from.source) && from.source != null ?
    from.source.map(field, type(from.source[field]) == list ? size(from.source[field]) : 0).sum() : 0).sum() +
  (has(rule.to) && rule.to != null ? rule.to : []).map(to, has(to.operation) && to.operation != null ?
    to.operation.map(field, type(to.operation[field]) == list ? size(to.operation[field]) : 0).sum() : 0).sum() +
  (has(rule.when) && rule.when != null ? rule.when : []).map(when,
    when.map(field, type(when[field]) == list ? size(when[field]) : 0).sum()).sum()).sum() <= 2048
{{- end }}

{{/* Whether a policy's selector has so few labels that agents take it. */}}
{{- define "pillion.fewLabels" -}}
!has(object.spec) || object.spec == null || !has(object.spec.selector) || object.spec.selector == null ||
!has(object.spec.selector.matchLabels) || object.spec.selector.matchLabels == null ||
size(object.spec.selector.matchLabels) <= 64
{{- end }}

{{/* Whether a PeerAuthentication has few ports. */}}
{{- define "pillion.fewPorts" -}}
!has(object.spec) || object.spec == null || !has(object.spec.portLevelMtls) || object.spec.portLevelMtls == null ||
size(object.spec.portLevelMtls) <= 1024
{{- end }}
