{{/* The server's environment: its settings, and the folders that it may write to. */}}
{{- define "lookonce.env" -}}
- {name: LOOKONCE_HOST, value: {{ .Values.host | quote }}}
- {name: LOOKONCE_PORT, value: "8000"}
- {name: LOOKONCE_MODEL, value: {{ .Values.model | quote }}}
- {name: LOOKONCE_ENGINE, value: {{ .Values.engine }}}
{{- if eq .Values.engine "vllm" }}
- {name: LOOKONCE_HANDOVER_DIR, value: /dev/shm}
{{- end }}
{{- with .Values.vllm }}
- {name: LOOKONCE_VLLM, value: {{ toJson . | quote }}}
{{- end }}
- {name: LOOKONCE_SHUTDOWN_SECONDS, value: {{ int .Values.longestAnswerSeconds | quote }}}
{{- if .Values.store.existingSecret }}
- name: LOOKONCE_STORE
  valueFrom:
    secretKeyRef:
      name: {{ .Values.store.existingSecret }}
      key: {{ .Values.store.key | quote }}
{{- else }}
- {name: LOOKONCE_STORE, value: "memory://?max_bytes={{ .Values.store.maxBytes }}"}
{{- end }}
{{- if .Values.apiKeys.existingSecret }}
- {name: LOOKONCE_API_KEYS, value: /etc/lookonce/keys.toml}
{{- end }}
{{- if .Values.allowAnyone }}
- {name: LOOKONCE_ALLOW_ANYONE, value: "true"}
{{- end }}
{{- range $name, $value := .Values.settings }}
- {name: LOOKONCE_{{ upper $name }}, value: {{ include "lookonce.text" $value | quote }}}
{{- end }}
{{- with .Values.hubToken.existingSecret }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $.Values.hubToken.key | quote }}
{{- end }}
- {name: HF_HOME, value: /models}
- {name: HF_MODULES_CACHE, value: /cache/modules}
# Libraries keep what they compile below these; a user without a name has no home.
- {name: HOME, value: /cache}
- {name: XDG_CACHE_HOME, value: /cache}
- {name: USER, value: lookonce}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "lookonce.resources" -}}
{{- $resources := deepCopy .Values.resources -}}
{{- if gt (int .Values.gpus.count) 0 -}}
{{- $_ := set $resources "limits" (set (default dict $resources.limits) .Values.gpus.resource (int .Values.gpus.count)) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}
