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
